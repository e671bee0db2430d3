PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: study test lint check-types tests docs notebooks campaign clean

study: $(STAMP)
	$(BIN)/goodhart run

# beside one another: the type checker is one process, and the tests leave a core idle now and then
test: $(STAMP)
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint check-types tests

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-types: $(STAMP)
	$(BIN)/basedpyright

# whole studies, and long computations, take twice as long where every call is checked for its types and shapes; a study
# with every source, runs of every method and all other tests have that check
WHOLE := $(patsubst %,tests/test_%.py,growth tabular_study small_study recorded league training_loop \
	adopted adopted_labels joining publication unfinished rounds map precision init interface merging threads campaign \
	encoder_decoder_study rule_study new_method own_functions world_file executor for_papers report report_hypotheses \
	check notebooks together tracking study adapter_study side_by_side command_line report_words printable launch \
	wheel placement tabular_world contrasts properties large_data site)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

tests: $(STAMP)
	$(PYTEST) $(addprefix --ignore=,$(WHOLE))
	$(PYTEST) --override-ini addopts="-q -rs --strict-markers" $(WHOLE)

# a broken link or anchor is an error
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo site/index.html

notebooks: $(STAMP)
	$(BIN)/python docs/notebook_page.py docs/notebooks/*.ipynb

campaign: $(STAMP)
	$(BIN)/python -m campaign

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) runs site

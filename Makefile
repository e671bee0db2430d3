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
# with every source, runs of every method and all other tests have that check; those that take longest come first
WHOLE := $(patsubst %,tests/test_%.py,small_study recorded init report tabular_world properties tabular_study growth \
	together notebooks map league adapter_study study adopted adopted_labels interface side_by_side rounds \
	encoder_decoder_study rule_study campaign launch command_line contrasts executor joining publication \
	training_loop report_words report_hypotheses placement printable wheel large_data tracking unfinished precision \
	merging threads new_method own_functions world_file for_papers check site)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

tests: $(STAMP)
	$(PYTEST) $(addprefix --ignore=,$(WHOLE))
	$(PYTEST) --no-loadscope-reorder --override-ini addopts="-q -rs --strict-markers" $(WHOLE)

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

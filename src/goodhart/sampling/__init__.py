"""From a policy and prompts to responses, reproducibly."""

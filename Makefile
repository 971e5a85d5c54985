# Names for what tools/ does; the logic lives there. Arguments: make bench ARGS="--scenario latency"
.DEFAULT_GOAL := help
.PHONY: help demo test dev bench lint fault fault-night docs
ARGS ?=

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## run the demo: a workflow with failing steps, and a worker killed in mid-step
	@tools/demo $(ARGS)

test: ## run every check and every test
	@tools/test $(ARGS)

dev: ## keep a whole stack up until Ctrl-C
	@tools/dev $(ARGS)

bench: ## build as shipped and measure
	@tools/bench $(ARGS)

lint: ## run the checks that need no server: words, codes, links, format, arrows, clippy
	@tools/lint $(ARGS)

fault: ## run the fault tests: kill and freeze everything under load
	@tools/fault $(ARGS)

fault-night: ## run the fault tests for a night
	@tools/fault --night $(ARGS)

docs: ## build the API documentation and check links
	@tools/docs $(ARGS)

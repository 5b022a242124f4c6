# The software driver asks for a runtime folder; any will do.
export XDG_RUNTIME_DIR ?= /tmp

.PHONY: help demo test bench setup model

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile

demo: setup model ## a real model in seven formats: sizes, what is lost, time
	cargo run --release --example minilm

test: setup ## the whole suite
	cargo test --release --all-targets

bench: setup ## criterion benches
	cargo bench

setup: # a Vulkan driver, if there is none
	@scripts/setup-vulkan.sh

model: # MiniLM into data/minilm, verified
	@scripts/fetch-model.sh

# A software driver asks for a runtime folder; any will do.
export XDG_RUNTIME_DIR ?= /tmp

LOWBIT = $${CARGO_TARGET_DIR:-target}/release/lowbit

.PHONY: help accuracy demo test test-all coverage verify bench isa peers peers-model candle train-demo training test-train msrv setup model language-models adapters everywhere mesa web web-test tools fuzz

help: ## print this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

demo: setup ## run a sentence encoder in thirteen recipes and a language model in three formats: size, loss, speed
	@scripts/fetch-model.sh minilm
	@scripts/fetch-model.sh smollm2 || echo "SKIPPED: no smollm2: no language model is run" >&2
	@scripts/fetch-model.sh pride || echo "SKIPPED: no pride: no perplexity is measured, and nothing compressed by GPTQ or SparseGPT" >&2
	cargo run --release -p lowbit-demo --bin lowbit-demo

accuracy: setup ## measure what methods of compression cost, an hour; MODELS=minilm for one; docs/methods.md
	@scripts/fetch-model.sh minilm pride
	@scripts/fetch-model.sh smollm2 || echo "SKIPPED: no smollm2: it is not measured" >&2
	@scripts/fetch-model.sh qwen2.5-coder || echo "SKIPPED: no qwen2.5-coder: it is not measured" >&2
	cargo run --release -p lowbit-demo --bin accuracy -- $(MODELS)

test: ## run all Rust tests and samples of the case table: at most 15 minutes (docs/testing.md)
	@scripts/test.sh

test-all: ## run also the whole case table, browsers, fuzzing, candle, the oldest Rust: two hours
	@scripts/test.sh --all

coverage: setup model adapters tools ## measure which lines of src/ the Rust tests run; ARGS=--html for a page
	@scripts/coverage.sh $(ARGS)

verify: setup ## check the whole case table, 39,200 cases, on the best adapter
	@cargo build --release
	$(LOWBIT) verify

bench: setup ## run the criterion benches
	cargo bench

fuzz: ## give every reader, spec, plan and bind a million inputs; RUNS=, SECONDS_EACH=, JOBS=, TARGETS=
	@scripts/fuzz.sh

isa: mesa ## print what AMD's compiler makes of the kernels, without a GPU
	@cargo build --release
	$(LOWBIT) isa --family navi31,navi21 --rows 1,8,128
	$(LOWBIT) isa --family navi31,navi21 --rows 1,8 --roofline

# All peers use one driver at one vector width. Dawn refuses lavapipe of Mesa 22.
PEERS = $${CARGO_TARGET_DIR:-target}/peers/build/release/lowbit-peers
peers: export LP_NATIVE_VECTOR_WIDTH ?= 256
peers: setup ## measure lowbit beside ONNX Runtime, ggml, web-rwkv and others; ARGS=--quick for a look
	@scripts/setup-mesa25.sh
	@scripts/setup-peers.sh
	. target/mesa25/env.sh && $(PEERS) $(ARGS)

peers-model: export LP_NATIVE_VECTOR_WIDTH ?= 256
peers-model: setup ## measure a language model beside llama.cpp and candle; ARGS=--quick for a look
	@scripts/setup-mesa25.sh
	@scripts/fetch-model.sh smollm2
	@scripts/setup-peers.sh --model
	cargo build --release -p lowbit-cli
	. target/mesa25/env.sh && $(PEERS) model $(ARGS)

web: ## build the browser pages, the case table with a bench and a language model, into target/web
	@scripts/setup-web.sh
	@scripts/build-web.sh

web-test: web ## run those pages in headless Chromium and compare them with native runs; SHOTS=FOLDER for pictures
	cargo build --release
	@scripts/web-test.sh $(SHOTS)

# A workspace of its own: candle is not a dependency of the crate.
CANDLE = --release --locked --manifest-path tools/candle/Cargo.toml --target-dir target/candle
candle: setup ## test lowbit's layers in candle, then measure them beside candle's own
	cargo test $(CANDLE)
	cargo run $(CANDLE)

# A workspace of its own too: burn is a dependency of nothing else.
TRAIN = --locked --manifest-path crates/lowbit-train/Cargo.toml --target-dir target/train
LOWBIT_TRAIN = target/train/release/lowbit-train
train-demo: ## train LeNet with quantization, pruning, lottery tickets and compressed gradients: docs/training.md
	@scripts/fetch-model.sh mnist
	cargo build --release $(TRAIN) --bin lowbit-train
	$(LOWBIT_TRAIN) run crates/lowbit-train/recipes/demo.toml --json target/train-demo.json

training: ## the same with three seeds and whole epochs, hours; goes on after an interruption
	@scripts/fetch-model.sh mnist
	cargo build --release $(TRAIN) --bin lowbit-train
	$(LOWBIT_TRAIN) run crates/lowbit-train/recipes/lenet.toml --work target/training --json target/training.json --curves target/training-curves.json

test-train: ## lint and test the training crate
	cargo fmt --manifest-path crates/lowbit-train/Cargo.toml -- --check
	cargo clippy --profile ci $(TRAIN) --all-targets -- -D warnings
	cargo test --profile ci $(TRAIN)

msrv: ## check that the rust-version of Cargo.toml suffices, as well as this machine can
	@scripts/check-msrv.sh

setup: ## install a software Vulkan driver if there is no driver
	@scripts/setup-vulkan.sh

model: ## fetch MiniLM, the same as int8 ONNX, SmolLM2 and a text into data/, 200 MB, and verify them
	@scripts/fetch-model.sh minilm smollm2 pride
	@scripts/fetch-model.sh minilm-int8 || echo "SKIPPED: no minilm-int8: the import of a real ONNX file is not tested" >&2

language-models: ## fetch SmolLM2, a text and Qwen2.5-Coder into data/, 600 MB, and verify them
	@scripts/fetch-model.sh smollm2 pride qwen2.5-coder

adapters: ## unpack Mesa 25 and SwiftShader into target/, and install libEGL: four software adapters
	@scripts/setup-adapters.sh

everywhere: setup adapters ## check the quick table on every adapter and write a page, target/everywhere.html
	@cargo build --release
	scripts/every-adapter.sh $(LOWBIT) verify --quick --adapter all --report target/everywhere.html

mesa: ## unpack Mesa 25, which compiles for AMD GPUs, into target/mesa25
	@scripts/setup-mesa25.sh || echo "SKIPPED: no Mesa 25: nothing is compiled for navi and gfx12" >&2

tools: ## put spirv-val, glslangValidator and Tint, which check translated shaders, into target/tools
	@scripts/setup-tools.sh || echo "SKIPPED: without all checkers not every translated shader is checked" >&2

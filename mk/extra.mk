# Targets beside building and testing.

# The first thing to try: installs what is missing, builds, and opens a chat with the model at hand.
MODEL ?= $(firstword $(wildcard models/ds4-tiny.gguf) build/fixture-tiny.gguf)
run:
	@scripts/setup
	@$(MAKE) --no-print-directory ds4 $(MODEL)
	@./ds4 run -m $(MODEL)
build/fixture-tiny.gguf: | ds4
	./ds4 fixture tiny --type Q8_0 -o $@

tidy:
	@python3 scripts/tidy.py
	@python3 scripts/gpu_lint.py src/gpu/kernels/*.k

# Every header stands on its own (those named *_impl.h are bodies, included several times).
HEADERS := $(filter-out %_impl.h $(GPU_DIALECT_HEADERS),$(wildcard include/*.h src/*/*.h src/*/*/*.h))
ifeq ($(ARCH),x86_64)
HEADER_FLAGS := $(call variant_flags,_avx512.c)
HEADERS := $(filter-out %neon.h,$(HEADERS))
else
HEADERS := $(filter-out %avx2.h %avx512.h %/lanes.h,$(HEADERS))
endif
headers:
	@for header in $(HEADERS); do \
		echo "#include \"$${header#*/}\"" | $(CC) $(CPPFLAGS) $(CFLAGS) $(HEADER_FLAGS) -Wno-unused \
			-MF /dev/null -fsyntax-only -x c - || exit 1; done

compdb:
	@$(MAKE) -B -n all | python3 scripts/compdb.py > compile_commands.json

# Matrix products of this build; GGML=libggml-base.so:libggml-cpu-haswell.so measures them turn by turn with ggml's.
bench: $(BUILD)/tests/measure/products
	@$< ggml=$(GGML) $(BENCH)

# Programs of tests/measure: figures, not tests.
MEASURES := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/measure/*.c))
$(MEASURES): %: %.o $(LIB)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)
measures: $(MEASURES)
measure: measures vocab.gguf ds4 $(BUILD)/ds4-fake
	@for program in $(MEASURES); do $$program || exit 1; done

# A vocabulary-only GGUF of the full 129,280 tokens, for tests of the tokenizer.
vocab.gguf: ds4
	xz -dc tests/golden/text/ds4_merges.bin.xz | ./ds4 fixture vocab -o $@

# DeepSeek V4 Flash in full size with generated weights: 86.7 GB long, 13 GB on disk.
flash.gguf: ds4
	xz -dc tests/golden/text/ds4_merges.bin.xz | ./ds4 fixture flash -o $@

# ds4-tiny in two bits from its 16-bit checkpoint, by the project's own tools, into build/model.
model: ds4
	scripts/make-model

# Fuzzers: FUZZ_SECONDS each, with clang; `scripts/fuzz --record` adds what was run to tests/fuzz/ledger.tsv.
FUZZERS := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/fuzz/fuzz_*.c))
$(FUZZERS): $(BUILD)/%: $(BUILD)/%.o $(LIB)
	$(Q)$(CC) $(LDFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)
fuzzers: $(FUZZERS)
FUZZ_SECONDS ?= 20
fuzz:
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz

# Real clients (Claude Code, Codex, opencode, Pi, the SDKs), installed outside the tree: 2 GB, some minutes.
clients: ds4 $(BUILD)/ds4-fake
	@DS4=$(BUILD)/ds4 scripts/clients

# The program, and the small model where the program then looks for it (src/command/model_flags.c).
PREFIX ?= /usr/local
install: ds4
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/share/ds4'
	install -m 755 ds4 '$(DESTDIR)$(PREFIX)/bin/ds4'
	install -m 644 models/ds4-tiny.gguf '$(DESTDIR)$(PREFIX)/share/ds4/ds4-tiny.gguf'

.PHONY: model clients run tidy headers compdb bench measure measures fuzz fuzzers install

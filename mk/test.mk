# Tests: every C file under tests/unit, tests/ops and tests/fault is one cmocka program; tests/e2e, tests/page and
# tests/clients are pytest.
# tests/lib holds helpers that all of them link. A test program runs from the root of the project.
# Programs of tests/scripted link the scripted engine of tests/lib/fake instead of the real one; ds4-fake is the whole
# program on it (its "model files" are scripts).
TEST_SRCS := $(wildcard tests/unit/*.c tests/ops/*.c tests/fault/*.c)
TEST_SRCS := $(filter-out $(if $(SAN)$(SMALL),tests/ops/test_ptx_kernels.c),$(TEST_SRCS))
TEST_LIB := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/lib/*.c))
SCRIPTED := $(patsubst %.c,$(BUILD)/%,$(wildcard tests/scripted/*.c))
FAKE_STORE := $(BUILD)/tests/lib/fake/fake_store.o
FAKE_LIB := $(filter-out $(FAKE_STORE),$(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/lib/fake/*.c)))
TEST_BINS := $(TEST_SRCS:%.c=$(BUILD)/%) $(CUDA_TESTS) $(METAL_TESTS) $(PTX_TESTS) $(SCRIPTED)
TEST_LIBS := -lcmocka -lpcre2-8 -llzma

$(BUILD)/tests/%.o: CPPFLAGS += -Itests
# Vectors of 64 bytes cross no call that is not inlined. Compilers take half a minute to optimise these functions, and
# many minutes with sanitizers.
$(BUILD)/tests/lib/avx512_emulated_avx2.o: CFLAGS += -Wno-psabi -Wno-frame-larger-than -fno-sanitize=all -O0 -g0 \
	-U_FORTIFY_SOURCE
$(SCRIPTED): $(FAKE_LIB) $(FAKE_STORE)
$(TEST_BINS): %: %.o $(TEST_LIB) $(LIB)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LIB) $(TEST_LIBS) $(LDLIBS)
$(BUILD)/ds4-fake: $(BUILD)/src/main.o $(filter-out %/fake_store.o,$(FAKE_LIB)) $(LIB)
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(LIB) $(LDLIBS)

tests: ds4 $(BUILD)/ds4-fake $(TEST_BINS) $(PTX)

# CHECK=text runs only the test programs with that text in their path. What the tests need is installed first.
check:
	@scripts/setup --tests
	@$(MAKE) --no-print-directory run-tests

run-tests: tests
	@DS4=$(BUILD)/ds4 scripts/run-tests '$(BUILD)' '$(CHECK)' $(TEST_BINS)

# The same while processes of the tests stand still at random.
storm: tests
	@DS4_TEST_SEED=$${DS4_TEST_SEED:-new} DS4=$(BUILD)/ds4 scripts/python scripts/storm.py \
		scripts/run-tests '$(BUILD)' '$(CHECK)' $(TEST_BINS)

.PHONY: tests check run-tests storm

# The long forms, minutes each; results are recorded in tests/soak.md.
SOAKS := $(addprefix $(BUILD)/tests/,scripted/test_store_crash scripted/test_store_faults \
	scripted/test_serve_simulation unit/test_restore_matrix unit/test_restore_edges unit/test_grammar_random)
soak: $(SOAKS) ds4 $(BUILD)/ds4-fake
	@for program in $(SOAKS); do DS4_TEST_SEED=$${DS4_TEST_SEED:-new} nice -n 5 $$program long || exit 1; done
	@DS4=$(abspath $(BUILD))/ds4 nice -n 5 scripts/python tests/e2e/soak_serve.py
.PHONY: soak

# The CPU backend and the emulator of GPUs built for 64-bit ARM, and their tests run under qemu: products in every
# format, the emulator's switching of stacks and its checks, every kernel in three orders of threads: some minutes,
# so CI builds all and runs only the tables and what ARM_RUN names. Linked with nothing but the C library;
# tests/arm/cmocka.h stands for cmocka.
ARM := $(BUILD_ROOT)/arm
ARM_CC := aarch64-linux-gnu-gcc
ARM_CXX := aarch64-linux-gnu-g++
ARM_TESTS := tests/arm/tables tests/ops/test_rows tests/ops/test_cpu_products tests/ops/test_backends \
	tests/ops/test_emulator_faults tests/ops/test_emulator
ARM_RUN ?= $(filter-out tests/arm/%,$(ARM_TESTS))
# Processors and the table of kernels that each must choose (dotprod came after the first two, i8mm after the third).
ARM_CPUS := cortex-a53:neon cortex-a72:neon neoverse-n1:neon-dotprod max:neon-i8mm
ARM_LIB := $(filter-out src/base/net.c,$(wildcard src/base/*.c)) \
	$(wildcard src/ops/*.c src/ops/*/*.c src/quant/*.c src/gpu/*.c src/gpu/emu/*.c src/tools/selftest_*.c) \
	src/session/sample.c \
	src/gpu/emu/kernels.cpp tests/gpu/faults.cpp tests/lib/op_backends.c tests/lib/test.c
ARM_CFLAGS := -std=c17 -O2 -g $(WARN) -D_GNU_SOURCE -DDS4_GPU_EMU -DXXH_INLINE_ALL -Itests/arm -Itests \
	-Iinclude -Isrc -fno-math-errno -ffp-contract=off -MMD -MP
arm_object = $(addprefix $(ARM)/,$(addsuffix .o,$(basename $1)))
$(ARM)/%.o: %.c
	@mkdir -p $(@D)
	@echo 'arm $<'
	$(Q)$(ARM_CC) $(ARM_CFLAGS) $(call variant_flags,$<,aarch64) -c -o $@ $<
$(ARM)/%.o: %.cpp
	@mkdir -p $(@D)
	@echo 'arm $<'
	$(Q)$(ARM_CXX) -Isrc -MMD -MP $(KERNEL_CXXFLAGS) -c -o $@ $<
$(addprefix $(ARM)/,$(ARM_TESTS)): %: %.o $(call arm_object,$(ARM_LIB))
	$(Q)$(ARM_CC) -static -o $@ $^ -lm -lpthread

arm-tests: $(addprefix $(ARM)/,$(ARM_TESTS))
check-arm:
	@for tool in $(ARM_CC) $(ARM_CXX) qemu-aarch64; do command -v $$tool >/dev/null && continue; \
		echo "check-arm: skipped, no $$tool; needs g++-aarch64-linux-gnu and qemu-user"; exit 0; done; \
	$(MAKE) --no-print-directory arm-tests && \
	for cpu in $(ARM_CPUS); do echo "$$cpu"; \
		qemu-aarch64 -cpu $${cpu%:*} $(ARM)/tests/arm/tables $${cpu#*:} || exit 1; done; \
	for test in $(ARM_RUN); do echo "$$test"; qemu-aarch64 $(ARM)/$$test || exit 1; done
.PHONY: check-arm arm-tests

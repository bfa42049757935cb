# The GPU backend. The emulator is part of every program on Linux where a C++ compiler is at hand (not under the thread
# sanitizer, whose entry points it takes for itself); without one the program is the same less `--backend emu`.
# CUDA=1 adds the CUDA backend (needs nvcc); on macOS the Metal backend is always there.
EMU_CXX ?= $(shell command -v $(if $(filter 0,$(IS_CLANG)),g++ clang++,clang++ g++) 2>/dev/null | head -1)
EMU := $(if $(filter Linux,$(OS)),$(if $(EMU_CXX),$(if $(filter thread,$(SAN)),,1)))
GPU_OBJS :=

# The emulator runs on stacks of its own, which the address sanitizer must not be told of half.
variant_flags += $(if $(findstring src/gpu/emu/,$1),-fno-sanitize=address)

ifneq ($(EMU),)
CPPFLAGS += -DDS4_GPU_EMU
GPU_OBJS += $(BUILD)/src/gpu/emu/kernels.o
KERNEL_CXXFLAGS := -std=c++17 -O1 -g -Wall -Wextra -Werror -fno-exceptions -fno-rtti -fPIE -ffp-contract=off \
	-fsanitize=thread
$(BUILD)/%.o: %.cpp $(BUILD)/flags
	@mkdir -p $(@D)
	@echo '$(notdir $(EMU_CXX)) $<'
	$(Q)$(EMU_CXX) -Isrc -MMD -MP $(KERNEL_CXXFLAGS) -c -o $@ $<
# Kernels that break the emulator's rules.
$(BUILD)/tests/ops/test_emulator_faults: $(BUILD)/tests/gpu/faults.o
endif

# Headers that are no C: see `make headers`.
GPU_DIALECT_HEADERS := $(wildcard src/gpu/prelude/*.h)

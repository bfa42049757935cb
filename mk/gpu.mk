# The GPU backend. The emulator is part of every program on Linux where a C++ compiler is at hand (not under the thread
# sanitizer, whose entry points it takes for itself); without one the program is the same less `--backend emu`.
# CUDA=1 adds the CUDA backend (NVCC=..., CUDA_ARCH=sm_90; without the latter the GPUs of this machine are meant); on
# macOS the Metal backend is always there.
EMU_CXX ?= $(shell command -v $(if $(filter 0,$(IS_CLANG)),g++ clang++,clang++ g++) 2>/dev/null | head -1)
EMU := $(if $(filter Linux,$(OS)),$(if $(EMU_CXX),$(if $(filter thread,$(SAN)),,1)))
GPU_OBJS :=

# The emulator runs on stacks of its own, which the address sanitizer must not be told of half.
variant_flags += $(if $(findstring src/gpu/emu/,$1),-fno-sanitize=address)

ifneq ($(EMU),)
CPPFLAGS += -DDS4_GPU_EMU
GPU_OBJS += $(BUILD)/src/gpu/emu/kernels.o
# A loop that copies must not become a call of memcpy, which older compilers do not report as access to memory; where a
# compiler calls it nonetheless (clang 14 for a struct of 16 bytes) the emulator's function is meant.
KERNEL_OBJCOPY := $(if $(EMU_CXX),$(shell $(EMU_CXX) -print-prog-name=objcopy))
KERNEL_CALLS := $(foreach f,memcpy memmove memset,--redefine-sym $f=__tsan_$f)
KERNEL_CXXFLAGS := -std=c++17 -O1 -g -Wall -Wextra -Werror -fno-exceptions -fno-rtti -fPIE -ffp-contract=off \
	-fno-builtin-memcpy -fno-builtin-memmove -fno-builtin-memset -fsanitize=thread
$(BUILD)/%.o: %.cpp $(BUILD)/flags mk/gpu.mk
	@mkdir -p $(@D)
	@echo '$(notdir $(EMU_CXX)) $<'
	$(Q)$(EMU_CXX) -Isrc -MMD -MP $(KERNEL_CXXFLAGS) -c -o $@ $<
	$(Q)$(KERNEL_OBJCOPY) $(KERNEL_CALLS) $@
# Kernels that break the emulator's rules.
$(BUILD)/tests/ops/test_emulator_faults: $(BUILD)/tests/gpu/faults.o
endif

# Kernels for Metal travel in the program as one text.
KERNEL_TEXT := src/gpu/prelude/metal.h $(addprefix src/gpu/kernels/,records.h grid.k common.k quant.k packed.k \
	matvec.k products.k digits.k hyper.k misc.k state.k index.k attention.k attend_tiles.k sample.k generate.k)
$(BUILD)/kernel_text.c: $(KERNEL_TEXT) mk/gpu.mk
	@mkdir -p $(@D)
	@(echo 'extern const char gpu_kernel_text[];'; echo 'const char gpu_kernel_text[] ='; \
		cat $(KERNEL_TEXT) | sed -e '/^#include "/d' -e 's/[\\"]/\\&/g' -e 's/^/"/' -e 's/$$/\\n"/'; echo ';') > $@
$(BUILD)/kernel_text.o: $(BUILD)/kernel_text.c
	$(Q)$(CC) $(CFLAGS) -c -o $@ $<

ifeq ($(OS),Darwin)
CPPFLAGS += -DDS4_GPU_METAL
GPU_OBJS += $(BUILD)/src/gpu/host_metal.o $(BUILD)/kernel_text.o
LDLIBS += -framework Foundation -framework Metal
$(BUILD)/src/gpu/host_metal.o: src/gpu/host_metal.m $(BUILD)/flags
	@mkdir -p $(@D)
	@echo '$(notdir $(firstword $(CC))) $<'
	$(Q)$(CC) $(CPPFLAGS) $(OPT) -g -Wall -Wextra -Werror -fblocks -fno-objc-arc -c -o $@ $<
endif

ifneq ($(CUDA),)
NVCC ?= nvcc
CUDA_ARCH ?= native
CUDA_HOME ?= $(patsubst %/bin/,%,$(dir $(shell command -v $(NVCC))))
$(BUILD)/src/gpu/backend.o $(BUILD)/src/gpu/host_cuda.o: CPPFLAGS += -DDS4_GPU_CUDA -isystem $(CUDA_HOME)/include
GPU_OBJS += $(BUILD)/src/gpu/cuda_kernels.o
LDLIBS += $(addprefix -L,$(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/lib)) -lcudart_static -ldl -lrt -lstdc++
$(BUILD)/src/gpu/cuda_kernels.o: src/gpu/cuda_kernels.cu src/gpu/cuda_kernels.h $(KERNEL_TEXT) \
	src/gpu/prelude/cuda.h src/gpu/prelude/cxx.h $(BUILD)/flags
	@mkdir -p $(@D)
	@echo '$(notdir $(NVCC)) $<'
	$(Q)$(NVCC) -std=c++17 -O3 -lineinfo -arch=$(CUDA_ARCH) -Isrc -I$(CUDA_HOME)/include -Xcompiler -fPIE -c -o $@ $<
endif

# The two longest programs run over the pretend devices once: not with a second compiler, nor with small limits, and
# over Metal, whose host no sanitizer sees, not under one.
LONG_GPU := unit/test_session_gpu_ahead unit/test_session_gpu_together
LONG_GPU := $(if $(SMALL)$(filter clang%,$(notdir $(CC))),,$(LONG_GPU))

# The pretend Metal: clang's Objective-C for the GNU runtime, and the emulator; a list of backends with the host, and
# test programs that run a second time with both, in place of the emulator's host.
PRETEND_CLANG := $(shell command -v clang 2>/dev/null)
OBJC_DIR := $(patsubst %/,%,$(dir $(firstword $(wildcard /usr/lib/gcc/*/*/libobjc.so))))
ifneq ($(and $(EMU),$(PRETEND_CLANG),$(OBJC_DIR)),)
PRETEND := $(BUILD)/tests/gpu/pretend
PRETEND_OBJS := $(addprefix $(PRETEND)/,metal.o host_metal.o bridge.o backend.o) $(BUILD)/kernel_text.o
PRETEND_METAL_FLAGS := -Itests/gpu/pretend -DDS4_GPU_METAL -DDS4_PRETEND_METAL
PRETEND_FLAGS = -fobjc-runtime=gcc -fblocks -g -O1 -Wall -Wextra -Wno-objc-root-class -Wno-deprecated-objc-isa-usage \
	-Isrc -Itests/gpu/pretend/include -Itests/gpu/pretend -I$(OBJC_DIR)/include -fPIE -MMD -MP
$(PRETEND)/metal.o: tests/gpu/pretend/metal.m
	@mkdir -p $(@D)
	$(Q)$(PRETEND_CLANG) $(PRETEND_FLAGS) -c -o $@ $<
$(PRETEND)/host_metal.o: src/gpu/host_metal.m
	@mkdir -p $(@D)
	$(Q)$(PRETEND_CLANG) $(PRETEND_FLAGS) -c -o $@ $<
$(PRETEND)/backend.o: src/gpu/backend.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(PRETEND_METAL_FLAGS) $(CFLAGS) -c -o $@ $<
METAL_TESTS := $(addprefix $(BUILD)/tests/metal/,unit/test_session_gpu $(if $(SAN),,$(LONG_GPU)) \
	unit/test_gpu_streamed unit/test_gpu_made_up ops/test_fused ops/test_candidates ops/test_candidates_chosen \
	ops/test_selftest_host)
$(BUILD)/tests/metal/%.o: tests/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo '$(notdir $(firstword $(CC))) $< for the pretend Metal'
	$(Q)$(CC) $(CPPFLAGS) $(PRETEND_METAL_FLAGS) $(CFLAGS) -c -o $@ $<
$(BUILD)/tests/ops/test_metal_host.o $(PRETEND)/bridge.o: CPPFLAGS += $(PRETEND_METAL_FLAGS)
$(METAL_TESTS) $(BUILD)/tests/ops/test_metal_host: LDLIBS += $(OBJC_DIR)/libobjc.so
$(METAL_TESTS) $(BUILD)/tests/ops/test_metal_host: $(PRETEND_OBJS)
endif

# The pretend CUDA runtime: the host compiled for it, a list of backends with that host, and test programs that run a
# second time with both, in place of the emulator's host.
ifneq ($(and $(EMU),$(if $(CUDA),,1)),)
PRETEND_CUDA := $(BUILD)/tests/gpu/pretend_cuda
PRETEND_CUDA_OBJS := $(addprefix $(PRETEND_CUDA)/,memory.o queue.o kernels.o runtime.o host_cuda.o backend.o)
PRETEND_CUDA_FLAGS := -Itests -Itests/gpu/pretend_cuda -DDS4_GPU_CUDA -DDS4_PRETEND_CUDA
$(PRETEND_CUDA)/%.o: CPPFLAGS += $(PRETEND_CUDA_FLAGS)
$(PRETEND_CUDA)/%.o: src/gpu/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<
CUDA_TESTS := $(addprefix $(BUILD)/tests/cuda/,unit/test_session_gpu $(LONG_GPU) unit/test_gpu_streamed \
	unit/test_gpu_made_up ops/test_packed ops/test_fused ops/test_sorted ops/test_candidates \
	ops/test_candidates_chosen ops/test_selftest_host)
$(BUILD)/tests/cuda/%.o: tests/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo '$(notdir $(firstword $(CC))) $< for the pretend CUDA'
	$(Q)$(CC) $(CPPFLAGS) $(PRETEND_CUDA_FLAGS) $(CFLAGS) -c -o $@ $<
$(BUILD)/tests/ops/test_cuda_host.o: CPPFLAGS += $(PRETEND_CUDA_FLAGS)
$(CUDA_TESTS) $(BUILD)/tests/ops/test_cuda_host: $(PRETEND_CUDA_OBJS)
endif

# The interpreter of PTX, and the kernels as nvcc compiles them for it: once for all variants, some 10 seconds. Without
# nvcc the text is empty, and kernels.ptx.why says why.
PTX := $(BUILD_ROOT)/ptx/kernels.ptx
PTX_OBJS := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/gpu/ptx/*.c))
$(patsubst %.c,$(BUILD)/%,$(wildcard tests/*/test_ptx_*.c)): $(PTX_OBJS)
$(BUILD)/tests/gpu/ptx/host.o: CPPFLAGS += -DPTX_FILE='"$(PTX)"'
# Test programs of the pretend CUDA runtime once more, with its kernels run by the interpreter. Not under sanitizers and
# with tiny limits: what these find is found when the emulator runs the same programs.
PTX_TESTS := $(addprefix $(BUILD)/tests/ptx/,unit/test_session_gpu $(filter %_ahead,$(LONG_GPU)) \
	unit/test_gpu_made_up ops/test_fused ops/test_sorted ops/test_candidates_chosen)
PTX_TESTS := $(if $(CUDA_TESTS),$(if $(SAN)$(SMALL),,$(PTX_TESTS)))
$(BUILD)/tests/gpu/ptx_executor.o: CPPFLAGS += $(PRETEND_CUDA_FLAGS)
$(PTX_TESTS): $(PRETEND_CUDA_OBJS) $(PTX_OBJS) $(BUILD)/tests/gpu/ptx_executor.o
$(BUILD)/tests/ptx/%.o: $(BUILD)/tests/cuda/%.o
	@mkdir -p $(@D)
	@cp $< $@
# Loops over lanes; no instruction but fma is fused.
variant_flags += $(if $(findstring tests/gpu/ptx/lanes,$1),-O3 -ffp-contract=off)
$(BUILD_ROOT)/ptx/nvcc: FORCE
	@mkdir -p $(@D)
	@scripts/nvcc >$@.new 2>&1; cmp -s $@.new $@ || cp $@.new $@; rm $@.new
$(PTX): src/gpu/cuda_kernels.cu src/gpu/cuda_kernels.h $(KERNEL_TEXT) src/gpu/prelude/cuda.h src/gpu/prelude/cxx.h \
	$(BUILD_ROOT)/ptx/nvcc
	@rm -f $@.why
	@if ! nvcc=$$(scripts/nvcc 2>$@.why); then cat $@.why >&2; : >$@; exit 0; fi; \
		rm -f $@.why; echo 'nvcc -ptx $<'; \
		"$$nvcc" -std=c++17 -O3 -arch=sm_90 -Isrc -I"$$(dirname "$$nvcc")/../include" -ptx -o $@.new $< && mv $@.new $@

# Headers in the dialect, which are read after a prelude, so that they do not stand alone (`make headers`).
GPU_DIALECT_HEADERS := $(wildcard src/gpu/prelude/*.h src/gpu/kernels/*.h)

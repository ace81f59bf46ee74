// RMS norm. The choices are macros of config.h, which the tuner writes: CONFIG_LANES threads share a row, a block has
// CONFIG_ROWS rows, a load has CONFIG_WIDTH values. SIZE_HIDDEN_SIZE is the definition's constant.
#include <cuda_bf16.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>

#include "config.h"

constexpr int kHidden = SIZE_HIDDEN_SIZE, kLanes = CONFIG_LANES, kRows = CONFIG_ROWS, kWidth = CONFIG_WIDTH;
constexpr int kLoads = kHidden / (kLanes * kWidth);
constexpr float kEpsilon = 1e-6f;

struct alignas(2 * kWidth) Values {
  __nv_bfloat16 of[kWidth];
};

// Sum over the threads of a row; each of them gets it. A warp never has threads of two rows.
__device__ float row_sum(float value, int place, int lane) {
#pragma unroll
  for (int step = 16; step; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  if constexpr (kLanes > 32) {
    constexpr int kWarps = kLanes / 32;
    __shared__ float parts[kRows][kWarps];
    if (lane % 32 == 0) parts[place][lane / 32] = value;
    __syncthreads();
    value = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) value += parts[place][i];
  }
  return value;
}

__global__ void __launch_bounds__(kLanes * kRows)
    normalise(const Values* x, const Values* weight, Values* out, int rows) {
  const int place = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const int row = blockIdx.x * kRows + place;
  const bool inside = row < rows;  // all threads meet at the barrier
  const size_t start = size_t(row) * (kHidden / kWidth);
  Values mine[kLoads];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    mine[i] = inside ? x[start + i * kLanes + lane] : Values{};
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const float value = __bfloat162float(mine[i].of[j]);
      sum += value * value;
    }
  }
  const float scale = rsqrtf(row_sum(sum, place, lane) / kHidden + kEpsilon);
  if (!inside) return;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const Values by = weight[i * kLanes + lane];
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      mine[i].of[j] = __float2bfloat16(__bfloat162float(mine[i].of[j]) * scale * __bfloat162float(by.of[j]));
    }
    out[start + i * kLanes + lane] = mine[i];
  }
}

void run(tvm::ffi::TensorView hidden_states, tvm::ffi::TensorView weight, tvm::ffi::TensorView output) {
  const int rows = hidden_states.size(0);
  if (rows == 0) return;
  // The stream that torch works on, so that the launch can be captured in a graph.
  const DLDevice device = hidden_states.device();
  const auto stream = static_cast<cudaStream_t>(TVMFFIEnvGetStream(device.device_type, device.device_id));
  normalise<<<(rows + kRows - 1) / kRows, kLanes * kRows, 0, stream>>>(
      static_cast<const Values*>(hidden_states.data_ptr()), static_cast<const Values*>(weight.data_ptr()),
      static_cast<Values*>(output.data_ptr()), rows);
}

TVM_FFI_DLL_EXPORT_TYPED_FUNC(run, run);

// Attention with heads of 16 elements. Floors, shapes and reasons: attention_prompt.cuh, attention_decode.cuh.
//
// budget: registers 255, shared 12872
// budget attention_narrow_*: registers 128, shared 8704
// sass: LDSM LDGSTS.E.BYPASS.128 HMMA.16816
#include "attention_kernels.cuh"

ATTENTION(16, 2, 2)

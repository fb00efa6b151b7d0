#include <cuda_bf16.h>
#include <cuda_fp16.h>
typedef unsigned u32;
__constant__ float table[4]={1.f,2.f,3.f,4.f};
__device__ float warp_sum(float v){ for(int o=16;o;o>>=1) v+=__shfl_xor_sync(~0u,v,o); return v;}
extern "C" __global__ void __launch_bounds__(256) rms(const __nv_bfloat16* __restrict__ x,const __nv_bfloat16* __restrict__ w,__nv_bfloat16* y,int n,float eps){
  __shared__ float part[8];
  extern __shared__ __align__(16) unsigned char dyn[];
  float s=0; const uint4* xv=(const uint4*)(x+(size_t)blockIdx.x*n);
  for(int i=threadIdx.x;i<n/8;i+=blockDim.x){ uint4 q=__ldg(xv+i); ((uint4*)dyn)[i]=q; const __nv_bfloat162*h=(const __nv_bfloat162*)&q;
    #pragma unroll
    for(int j=0;j<4;j++){float2 f=__bfloat1622float2(h[j]); s+=f.x*f.x+f.y*f.y;} }
  s=warp_sum(s); if(threadIdx.x%32==0) part[threadIdx.x/32]=s; __syncthreads();
  if(threadIdx.x<32){ s=threadIdx.x<blockDim.x/32?part[threadIdx.x]:0.f; s=warp_sum(s); if(threadIdx.x==0) part[0]=s;} __syncthreads();
  float r=rsqrtf(part[0]/n+eps);
  for(int i=threadIdx.x;i<n;i+=blockDim.x) y[(size_t)blockIdx.x*n+i]=__float2bfloat16(__bfloat162float(((__nv_bfloat16*)dyn)[i])*r*__bfloat162float(w[i])*table[i&3]);
}
__device__ __noinline__ float slow(float x,int k){ float t[8]; for(int i=0;i<8;i++) t[i]=x*i; return t[k&7]; }
extern "C" __global__ void mathk(const float* x,float* y,double* d,int n,long long* ll,u32* u){
  int i=blockIdx.x*blockDim.x+threadIdx.x; if(i>=n) return;
  float v=x[i];
  y[i*20]=expf(v); y[i*20+1]=__expf(v); y[i*20+2]=logf(v); y[i*20+3]=sinf(v); y[i*20+4]=cosf(v); y[i*20+5]=powf(v,2.5f); y[i*20+6]=tanhf(v);
  y[i*20+7]=erff(v); y[i*20+8]=v/(v+3); y[i*20+9]=sqrtf(v); y[i*20+10]=__fdividef(v,3.3f+v); y[i*20+11]=fmaxf(v,0.f); y[i*20+12]=floorf(v); y[i*20+13]=rintf(v); y[i*20+14]=fmodf(v,3.f);y[i*20+15]=log1pf(v); y[i*20+16]=exp2f(v); y[i*20+17]=slow(v,i); y[i*20+18]=isnan(v)?1.f:isinf(v)?2.f:3.f; y[i*20+19]=copysignf(v,-1.f);
  d[i]=exp((double)v)+v/7.0+sqrt((double)v);
  ll[i]=(long long)v*i/7+ (ll[i]%13); u[i]=__umulhi(u[i],12345u)+__popc(u[i])+__clz(u[i])+__ffs(u[i])+__brev(u[i])+ (u[i]/7)+(u[i]%(i+1))+__funnelshift_l(u[i],u[i+1],i)+__byte_perm(u[i],u[i+1],0x3210+i);
  atomicAdd(y+n*20,v); atomicMax((int*)u+n,i); atomicAdd(u+n+1,1u); unsigned long long* q=(unsigned long long*)(u+n+2); atomicMax(q,(unsigned long long)i); atomicCAS(u+n+4,0u,5u);
  u32 b=__ballot_sync(__activemask(),v>0); if(__any_sync(~0u,v>1)) u[i]+=b; u[i]+=__reduce_add_sync(~0u,u[i]); u[i]+=__match_any_sync(~0u,u[i]);
  switch(i%6){case 0:u[i]+=clock();break;case 1:u[i]*=3;break;case 2:u[i]^=0x55;break;case 3:u[i]-=9;break;case 4:u[i]<<=3;break;case 5: u[i]|=1;}
}

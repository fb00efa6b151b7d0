#include <cuda_bf16.h>
#include <cuda_fp16.h>
typedef unsigned u32;
__device__ __forceinline__ u32 smem(const void*p){return (u32)__cvta_generic_to_shared(p);}
__device__ __forceinline__ void cp16(u32 s,const void*g,bool ok){int n=ok?16:0; asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n"::"r"(s),"l"(g),"r"(n));}
__device__ __forceinline__ void commit(){asm volatile("cp.async.commit_group;\n"::);}
template<int N> __device__ __forceinline__ void wait(){asm volatile("cp.async.wait_group %0;\n"::"n"(N));}
__device__ __forceinline__ void ldm4(u32*r,u32 a){asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n":"=r"(r[0]),"=r"(r[1]),"=r"(r[2]),"=r"(r[3]):"r"(a):"memory");}
__device__ __forceinline__ void mma(float*d,const u32*a,const u32*b){asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n":"+f"(d[0]),"+f"(d[1]),"+f"(d[2]),"+f"(d[3]):"r"(a[0]),"r"(a[1]),"r"(a[2]),"r"(a[3]),"r"(b[0]),"r"(b[1]));}
// C[M,N]=A[M,K] W[N,K]^T, 128x128x32, 3 stages, 8 warps of 64x32
constexpr int BM=128,BN=128,BK=32,ST=3;
extern "C" __global__ void __launch_bounds__(256,1) gemm(const __nv_bfloat16* __restrict__ A,const __nv_bfloat16* __restrict__ W,__nv_bfloat16* __restrict__ C,int M,int N,int K){
  extern __shared__ __align__(128) unsigned char sm[];
  int t=threadIdx.x,l=t&31,w=t>>5; int m0=blockIdx.y*BM,n0=blockIdx.x*BN; int wm=(w&1)*64,wn=(w>>1)*32;
  u32 sa=smem(sm),sb=sa+ST*BM*BK*2;
  auto load=[&](int k,int s){
    #pragma unroll
    for(int i=0;i<2;i++){int c=t+i*256; int r=c>>2,q=c&3; u32 o=r*64+((q^((r>>1)&3))<<4);
      cp16(sa+s*BM*BK*2+o,A+(size_t)(m0+r<M?m0+r:0)*K+k*BK+q*8,m0+r<M&&k*BK<K);
      cp16(sb+s*BN*BK*2+o,W+(size_t)(n0+r<N?n0+r:0)*K+k*BK+q*8,n0+r<N&&k*BK<K);}
    commit();};
  float acc[4][4][4];
  #pragma unroll
  for(int i=0;i<4;i++) for(int j=0;j<4;j++) for(int e=0;e<4;e++) acc[i][j][e]=0.f;
  int kt=(K+BK-1)/BK;
  for(int s=0;s<ST-1;s++) { if(s<kt) load(s,s); else commit(); }
  for(int k=0;k<kt;k++){
    wait<ST-2>(); __syncthreads();
    if(k+ST-1<kt) load(k+ST-1,(k+ST-1)%ST); else commit();
    u32 a0=sa+(k%ST)*BM*BK*2,b0=sb+(k%ST)*BN*BK*2;
    #pragma unroll
    for(int kk=0;kk<2;kk++){
      u32 a[4][4],b[2][4];
      #pragma unroll
      for(int i=0;i<4;i++){int r=wm+i*16+(l&15),q=kk*2+(l>>4); ldm4(a[i],a0+r*64+((q^((r>>1)&3))<<4));}
      #pragma unroll
      for(int j=0;j<2;j++){int r=wn+j*16+(l&7)+((l>>4)<<3),q=kk*2+((l>>3)&1); ldm4(b[j],b0+r*64+((q^((r>>1)&3))<<4));}
      #pragma unroll
      for(int i=0;i<4;i++)
        #pragma unroll
        for(int j=0;j<4;j++) mma(acc[i][j],a[i],&b[j>>1][(j&1)*2]);
    }
  }
  asm volatile("cp.async.wait_all;\n"::);
  #pragma unroll
  for(int i=0;i<4;i++)
    #pragma unroll
    for(int j=0;j<4;j++)
      #pragma unroll
      for(int h=0;h<2;h++){int r=m0+wm+i*16+(l>>2)+h*8,c=n0+wn+j*8+(l&3)*2; if(r<M&&c<N){__nv_bfloat162 v=__floats2bfloat162_rn(acc[i][j][h*2],acc[i][j][h*2+1]); *(__nv_bfloat162*)(C+(size_t)r*N+c)=v;}}
}
extern "C" __global__ void halfs(const __half2* a,__half2* b,const __nv_bfloat162* c,__nv_bfloat162* d,int n, float* f){
  int i=threadIdx.x; if(i<n){ __half2 v=a[i]; b[i]=__hfma2(v,v,__hmax2(v,b[i])); d[i]=__hfma2(c[i],c[i],__hmul2(c[i],d[i])); d[i]=__hadd2(d[i],c[i]); __half q=__hadd(v.x,v.y); f[i]=__half2float(q)+__half2float(hexp(q)); f[i+1]=(float)(__half)(f[i]); b[i+32]=__floats2half2_rn(f[i],f[i+1]); f[i]+=__low2float(d[i]); f[i]=fminf(f[i],__int2float_rn(i)); f[i]+=(unsigned)f[i]; if(__hgt(q,v.x)) f[i]=2; }
}

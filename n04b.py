import torch
gelu=torch.nn.functional.gelu
def linear(k,W): return k@W["W1"]+W["b1"]
def deep(k,W): return gelu(k@W["W1"]+W["b1"])@W["W2"]+W["b2"]
def run(f,W,step,n=400,seed=0):
    g=torch.Generator().manual_seed(seed); errs=[]
    W={n:w.clone() for n,w in W.items()}
    for t in range(n):
        k=torch.randint(0,2,(2,),generator=g)*2.-1; v=k[0]*k[1]
        for w in W.values(): w.requires_grad_()
        loss=(f(k,W)-v).square().sum()/2
        gr=torch.autograd.grad(loss,list(W.values()))
        errs.append(2*loss.item())
        W={n:(w-step*d).detach() for (n,w),d in zip(W.items(),gr)}
    return errs,W,f
for seed in range(6):
    torch.manual_seed(seed)
    L={"W1":torch.zeros(2,1),"b1":torch.zeros(1)}
    D={"W1":torch.randn(2,16),"b1":torch.randn(16)*0.1,"W2":torch.randn(16,1)/4,"b2":torch.zeros(1)}
    for step in (0.05,0.1,0.2):
        e,_,_=run(linear,L,step,seed=seed); d,_,_=run(deep,D,step,seed=seed)
        print(seed,step,[round(sum(x[a:b])/(b-a),2) for x in (e,d) for a,b in ((0,50),(50,100),(100,200),(300,400))])

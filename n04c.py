import base64, struct
from nl_course.views.stage import Stage
s=Stage("gated-delta"); t=s.screen.take
print(t['fact'],[m['name'] for m in t['memories']])
for c in t['memories'][0]['checkpoints']:
  for i,h in enumerate(c['heads']):
    n='step'
    a=struct.unpack('<221f',base64.b64decode(h[n]['f32'])); d=a[82:87]; e=a[:75]+a[91:]
    print(c['step'],i,n, round(sum(d)/5,4), round(sum(e)/len(e),4), round(sum(d)/5/(sum(e)/len(e)),2))

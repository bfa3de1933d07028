import json,re
for p in ("04_test_time_training","04b_inside_test_time_training"):
    nb=json.load(open(f"/tmp/w/n04/notebooks/{p}.ipynb"))
    md=[c for c in nb["cells"] if c["cell_type"]=="markdown"]; code=[c for c in nb["cells"] if c["cell_type"]=="code"]
    t="\n".join("".join(c["source"]) for c in md)
    strip=re.sub(r"<!-- (\w+) \d\d -->.*?<!-- /\1 -->|<details>.*?</details>","",t,flags=re.S)
    lines=sum(sum(bool(l.strip()) for l in "".join(c["source"]).splitlines()) for c in code)
    print(p,len(nb["cells"]),len(md),len(code),"all words",len(t.split()),"counted",len(strip.split()),"lines",lines, [ (c["id"],n) for c in code if (n:=sum(bool(l.strip()) for l in "".join(c["source"]).splitlines()))>20])

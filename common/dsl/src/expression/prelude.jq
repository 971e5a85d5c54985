# The filters of jq that are written in jq. Together with natives.rs this is everything that an expression can
# call; after jq's own builtins and jaq's definitions (MIT). Names that start with __ are internal.
# None of these passes a filter argument on to itself: such chains must be paid for (see rewrite.rs).

# Control
def tostring: "\(.)";
def not: if . then false else true end;
def select(f): if f then . else empty end;
def error:       __error as $x | .;
def error(msgs): (msgs | __error) as $x | .;
def values:    select(. != null);
def nulls:     select(. == null);
def booleans:  select(type == "boolean");
def numbers:   select(type == "number");
def strings:   select(type == "string");
def arrays:    select(type == "array");
def objects:   select(type == "object");
def iterables: select(type | . == "array" or . == "object");
def scalars:   select(type | . != "array" and . != "object");

# Generators
def range(from; to): range(from; to; 1);
def range(to): range(0; to; 1);
def repeat(f): def rec: ., (f | rec); rec;
def recurse(f): def rec: ., (f | rec); rec;
def recurse: recurse(.[]?);
def recurse(f; cond): def rec: ., (f | select(cond) | rec); rec;
def while(cond; update): def rec: if cond then ., (update | rec) else empty end; rec;
def until(cond; update): def rec: if cond then . else update | rec end; rec;
def nth(n): .[n];
def nth(n; g): first(skip(n; g));
def first: .[0];
def last: .[-1];
def isempty(g): first((g | false), true);
def all(g; cond): isempty(g | cond and empty);
def any(g; cond): isempty(g | cond or empty) | not;
def all(cond): all(.[]; cond);
def any(cond): any(.[]; cond);
def all: all(.[]; .);
def any: any(.[]; .);
def add(f): reduce f as $x (null; . + $x);
def combinations: .[][] |= [.] | reduce .[] as $a ([]; . + $a[]);
def combinations($n): [limit($n; repeat(.))] | combinations;

# Numbers
def abs:
    if type != "number" then error("\(type) has no absolute value") elif . < 0 then -. else . end;
def isnan: type == "number" and . != .;
def isinfinite: type == "number" and (. == infinite or . == -infinite);
def isfinite: type == "number" and (isinfinite | not);
def isnormal: type == "number" and ((. == 0 or isnan or isinfinite) | not);
def finites: select(isfinite);
def normals: select(isnormal);
def pow10: exp10;
def gamma: lgamma;
def logb: if . == 0 then -infinite elif isinfinite then infinite elif isnan then . else __ilogb end;
def significand: if . == 0 or isinfinite or isnan then . else scalbln(.; -1 * __ilogb) end;
def drem($l; r): remainder($l; r);
def scalb(x; e): x * pow(2; e);
def toboolean:
    if type == "boolean" then . elif . == "true" then true elif . == "false" then false
  else error("\(tojson) cannot be parsed as a boolean") end;
def have_literal_numbers: true;
def have_decnum: false;

# Arrays
def map(f): [.[] | f];
def toarray: if type == "array" then . else [.] end;
def reverse: if type == "string" then explode | __reverse | implode elif . == null then [] else __reverse end;
def min_by(f): reduce __min_by(f) as $x (null; $x);
def max_by(f): reduce __max_by(f) as $x (null; $x);
def min: min_by(.);
def max: max_by(.);
def unique_by(f): [group_by(f)[] | .[0]];
def unique: unique_by(.);
def flatten: flatten(1e9);
def transpose: [range([.[] | length] | max // 0) as $i | [.[][$i]]];
def in(xs): . as $x | xs | has($x);
def inside(xs): . as $x | xs | contains($x);
def index($i): indices($i)[0];
def rindex($i): indices($i)[-1];
def IN(s): any(s == .; .);
def IN(src; s): any(src == s; .);
def INDEX(stream; f): reduce stream as $row ({}; .[$row | f | tostring] |= $row);
def INDEX(f): INDEX(.[]; f);

# Objects
def keys: keys_unsorted | sort;
def map_values(f): .[] |= f;
def to_entries: [__key_values[] as [$key, $value] | {$key, $value}];
def from_entries:
  reduce .[] as $x ({}; . + {
    ($x | if .key == null then .k // .name // .Name // .K // .Key else .key end
        | if type == "string" then . else tojson end):
    ($x | if has("value") then .value elif has("v") then .v else .Value end)
  });
def with_entries(f): to_entries | map(f) | from_entries;
def walk(f): .. |= f;

# Paths
def paths: path(..) | select(length > 0);
def paths(f): path(.. | select(f)) | select(length > 0);
def leaf_paths: paths(scalars);
def getpath($path): reduce $path[] as $p (.; .[$p]);
def setpath($path; $x): getpath($path) = $x;
def del(f): delpaths([path(f)]);
def pick(f): . as $top | reduce path(f) as $p (null; setpath($p; $top | getpath($p)));
def tostream:
  path(def r: (.[]?|r), .; r) as $p | getpath($p) | reduce path(.[]?) as $q ([$p, .]; [$p + $q]);
def fromstream(f):
  {x: null, e: false} as $init
  | foreach f as $i ($init;
      if .e then $init else . end
      | if $i | length == 2
        then setpath(["e"]; $i[0] | length == 0) | setpath(["x"] + $i[0]; $i[1])
        else setpath(["e"]; $i[0] | length == 1) end;
      if .e then .x else empty end);
def truncate_stream(stream):
  . as $n | null | stream | . as $input
  | if (.[0] | length) > $n then setpath([0]; .[0][$n:]) else empty end;

# Texts
def ascii: [.] | implode;
def trimstr($x): ltrimstr($x) | rtrimstr($x);
def split($sep): . / $sep;
def test(re): test(re; null);
def match(re; flags): __matches(re; flags)[];
def match(re): match(re; null);
def __capture: [.captures[] | select(.name != null) | {key: .name, value: .string}] | from_entries;
def capture(re; flags): match(re; flags) | __capture;
def capture(re): capture(re; null);
def __global($flags): "g" + ($flags // "");
def scan($re; $flags):
  match($re; __global($flags)) | if (.captures | length) > 0 then [.captures[].string] else .string end;
def scan($re): scan($re; null);
def split($re; $flags): [__pieces($re; __global($flags))[] | strings];
def splits($re; flags): split($re; flags)[];
def splits($re): splits($re; null);
def sub($re; f; $flags):
  reduce __pieces($re; $flags)[] as $x (""; . + ($x | if type == "string" then . else __capture | f end));
def sub($re; f): sub($re; f; null);
def gsub($re; f; $flags): sub($re; f; __global($flags));
def gsub($re; f): sub($re; f; "g");

# Times, in UTC
def todate: todateiso8601;
def fromdate: fromdateiso8601;
def date: todate;
def dateadd(u; n): . + n;
def datesub(u; n): . - n;
def strftime($format): __strftime($format | __time_format);
def strptime($format): __strptime($format | __time_format);

# Formats
def @json: tojson;
def @text: tostring;
def @csv: __csv;
def @tsv: __tsv;
def @sh: __sh;
def @html: tostring | __html;
def @uri: tostring | __uri;
def @urid: tostring | __decode_uri;
def @base64: tostring | __encode_base64;
def @base64d: tostring | __padded | __decode_base64;

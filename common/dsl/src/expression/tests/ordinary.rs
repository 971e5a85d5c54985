//! What ordinary expressions yield.

use super::super::{EvalEnv, Expression, Scope, strip};
use super::{NOW_MS, evaluate, scope};
use crate::value;

const ORDER: &str = r#"{
  "id": "o-1", "total": 12.5, "paid": false, "note": null,
  "customer": {"name": "Ann", "tags": ["new", "vip"]},
  "lines": [{"sku": "a", "qty": 2, "price": 3}, {"sku": "b", "qty": 1, "price": 6.5}, {"sku": "a", "qty": 4, "price": 0}]
}"#;

/// Expression, result; the input is [`ORDER`].
const TABLE: &[(&str, &str)] = &[
    // paths, shortcuts among them
    (".id", r#""o-1""#),
    (" .customer.name ", r#""Ann""#),
    (".customer.missing.deeper", "null"),
    (".note.a.b", "null"),
    (".lines[0].sku", r#""a""#),
    (".lines[-1].qty", "4"),
    (".lines[-1] | .qty", "4"),
    (".lines[9].qty", "null"),
    (".customer[\"name\"]", r#""Ann""#),
    (".\"id\"", r#""o-1""#),
    (".customer.tags", r#"["new","vip"]"#),
    (".lines[1:] | length", "2"),
    (".lines[:-1] | map(.sku)", r#"["a","b"]"#),
    (".id[2:]", r#""1""#),
    (".lines[].qty", "[2,1,4]"),
    ("[.lines[].qty]", "[2,1,4]"),
    (".id?", r#""o-1""#),
    (".id.x?", "null"),
    ("[.id.x?]", "[]"),
    ("[..|numbers]", "[12.5,2,3,1,6.5,4,0]"),
    ("..|.sku?", "[null,null,null,\"a\",\"b\",\"a\"]"),
    // variables
    ("$x", "5"),
    ("$context.user.name", r#""Ann""#),
    ("$context.items[1]", "2"),
    ("$context.user.id + $x", "12"),
    ("$input", "null"),
    ("$context + {a: 1} | keys", r#"["a","items","user"]"#),
    (
        "{id, name: .customer.name, $x}",
        r#"{"id":"o-1","name":"Ann","x":5}"#,
    ),
    // literals
    ("1", "1"),
    ("1.0", "1"),
    ("-1", "-1"),
    ("1.50", "1.5"),
    ("1e3", "1000"),
    ("\"a b\"", r#""a b""#),
    ("\"\\u00e9\\n\"", "\"é\\n\""),
    ("null", "null"),
    ("true", "true"),
    ("[]", "[]"),
    ("{}", "{}"),
    ("[1,[2,{\"a\":3}]]", r#"[1,[2,{"a":3}]]"#),
    (
        "{a: 1, \"b\": 2, (\"c\"): 3, \"d\\(1)\": 4, if: 5}",
        r#"{"a":1,"b":2,"c":3,"d1":4,"if":5}"#,
    ),
    // operators
    (".total * 2", "25"),
    ("7 / 2", "3.5"),
    ("10 / 2", "5"),
    ("7 % 3", "1"),
    ("-7 % 3", "-1"),
    ("5 % 2.9", "1"),
    ("0.1 + 0.2", "0.30000000000000004"),
    ("9007199254740993 + 0", "9007199254740993"),
    ("9223372036854775807 + 1", "9223372036854775808"),
    ("1 - 5", "-4"),
    ("null + 1", "1"),
    ("\"a\" + \"b\" + \"c\"", r#""abc""#),
    ("\"ab\" * 3", r#""ababab""#),
    ("\"ab\" * 0", "null"),
    ("\"a,b\" / \",\"", r#"["a","b"]"#),
    ("[1,2] + [3]", "[1,2,3]"),
    ("[1,2,1,3] - [1]", "[2,3]"),
    ("{a:1} + {b:2} + {a:3}", r#"{"a":3,"b":2}"#),
    ("{a:{b:1}} * {a:{c:2}}", r#"{"a":{"b":1,"c":2}}"#),
    (".total > 10 and .paid == false", "true"),
    (".paid or .note", "false"),
    (".note // \"none\"", r#""none""#),
    (".paid | not", "true"),
    (
        "[1 < 2, \"a\" < \"b\", null < false, [] < {}, 1 == 1.0, \"1\" == 1]",
        "[true,true,true,true,true,false]",
    ),
    ("{a:1,b:2} == {b:2,a:1}", "true"),
    (
        "[nan == nan, nan < 1, ([nan] | sort | .[0])]",
        "[false,true,null]",
    ),
    ("(1,2) as $y | $y * 10", "[10,20]"),
    (
        ". as {id: $i, customer: {tags: [$first]}} | [$i, $first]",
        r#"["o-1","new"]"#,
    ),
    ("empty", "null"),
    ("1, 2", "[1,2]"),
    // control
    (
        "if .total > 10 then \"big\" elif .total > 5 then \"mid\" else \"small\" end",
        r#""big""#,
    ),
    ("if .paid then 1 end | .id", r#""o-1""#),
    ("try error(\"x\") catch .", r#""x""#),
    ("try error({a: 1}) catch .a", "1"),
    ("[.lines[] | select(.qty > 1) | .sku]", r#"["a","a"]"#),
    ("reduce .lines[] as $l (0; . + $l.qty * $l.price)", "12.5"),
    ("[foreach .lines[] as $l (0; . + $l.qty)]", "[2,3,7]"),
    (
        "[foreach .lines[] as $l (0; . + $l.qty; [$l.sku, .])]",
        r#"[["a",2],["b",3],["a",7]]"#,
    ),
    (
        "label $out | foreach (1,2,3) as $i (0; . + $i; if . > 2 then ., break $out else empty end)",
        "3",
    ),
    ("def double: . * 2; def apply(f): f | f; 3 | apply(double)", "12"),
    (
        "def fac: if . <= 1 then 1 else . * (. - 1 | fac) end; 20 | fac",
        "2432902008176640000",
    ),
    ("def f($a; $b): $a + $b; f(1; 2)", "3"),
    ("1 | [limit(3; repeat(. * 2))]", "[1,2,4]"),
    (
        "[range(3)], [range(2; 5)], [range(0; 10; 4)], [range(5; 0; -2)]",
        "[[0,1,2],[2,3,4],[0,4,8],[5,3,1]]",
    ),
    ("[range(0; 1; 0.25)]", "[0,0.25,0.5,0.75]"),
    ("first(range(10; infinite))", "10"),
    ("[.lines[] | .qty] | [first, last, nth(1)]", "[2,4,1]"),
    (
        "[1 | until(. > 100; . * 2)], [1 | while(. < 10; . * 3)]",
        "[[128],[1,3,9]]",
    ),
    (
        "[2 | recurse(if . < 20 then . * . else empty end)]",
        "[2,4,16,256]",
    ),
    ("isempty(empty), isempty(1)", "[true,false]"),
    // arrays
    (".lines | map(.qty) | add", "7"),
    (
        ".lines | map(.qty * .price) | [min, max, add / length]",
        "[0,6.5,4.166666666666667]",
    ),
    (
        "[3,1,2] | sort, reverse, sort_by(-.)",
        "[[1,2,3],[2,1,3],[3,2,1]]",
    ),
    (
        ".lines | group_by(.sku) | map({sku: .[0].sku, qty: map(.qty) | add})",
        r#"[{"sku":"a","qty":6},{"sku":"b","qty":1}]"#,
    ),
    (".lines | unique_by(.sku) | map(.sku)", r#"["a","b"]"#),
    (".lines | min_by(.price), max_by(.price) | .sku", r#"["a","b"]"#),
    ("[] | min, max, add", "[null,null,null]"),
    ("[1,[2,[3]]] | flatten, flatten(1)", "[[1,2,3],[1,2,[3]]]"),
    (
        "[1,2,2,3] | unique, index(2), rindex(2), indices(2)",
        "[[1,2,3],1,2,[1,2]]",
    ),
    ("[1,2,1,2] | indices([1,2])", "[0,2]"),
    ("[[1,2],[3]] | transpose", "[[1,3],[2,null]]"),
    ("[[1,2],[3,4]] | [combinations]", "[[1,3],[1,4],[2,3],[2,4]]"),
    ("[1,3,5] | bsearch(3), bsearch(4)", "[1,-3]"),
    ("[true, false] | any, all", "[true,false]"),
    (".lines | any(.qty > 3), all(.qty > 3)", "[true,false]"),
    ("[1,2] | contains([2]), inside([1,2,3])", "[true,true]"),
    ("\"foobar\" | contains(\"bar\")", "true"),
    ("2 | IN(1,2,3)", "true"),
    ("IN(.lines[].sku; \"b\", \"c\")", "true"),
    ("INDEX(.lines[]; .sku) | map_values(.qty)", r#"{"a":4,"b":1}"#),
    ("[1, [2]] | map(toarray)", "[[1],[2]]"),
    ("[1,2,3] | first(.[] | select(. > 1))", "2"),
    ("[1,2,3,4] | [.[] | select(. % 2 == 0)] | length", "2"),
    ("[1,2,3] | .[1.7], has(2), has(3)", "[2,true,false]"),
    ("add(.lines[].qty)", "7"),
    ("[skip(1; 1, 2, 3)]", "[2,3]"),
    // objects
    ("keys", r#"["customer","id","lines","note","paid","total"]"#),
    ("keys_unsorted | .[0]", r#""id""#),
    (
        "has(\"id\"), has(\"x\"), (.customer | has(\"tags\"))",
        "[true,false,true]",
    ),
    (
        "{a: 1, b: null} | to_entries",
        r#"[{"key":"a","value":1},{"key":"b","value":null}]"#,
    ),
    (
        "[{key: \"a\", value: 1}, {name: \"b\", value: 2}, {k: \"c\", v: 3}] | from_entries",
        r#"{"a":1,"b":2,"c":3}"#,
    ),
    ("{a: 1, b: 2} | with_entries(.value += 1)", r#"{"a":2,"b":3}"#),
    ("{a: 1, b: 2} | map_values(. * 10)", r#"{"a":10,"b":20}"#),
    ("{a: 1, b: 2} | map(. + 1), add, length", "[[2,3],3,2]"),
    ("del(.lines, .customer, .note) | keys", r#"["id","paid","total"]"#),
    ("{a: [1,2,3], b: 1} | del(.a[0,2], .c.d)", r#"{"a":[2],"b":1}"#),
    ("{a: 1, b: 2, c: 3} | delpaths([[\"a\"], [\"c\"]])", r#"{"b":2}"#),
    (
        "[1,2,3,4] | del(.[1:3]), del(.[] | select(. > 2))",
        "[[1,4],[1,2]]",
    ),
    (
        "pick(.customer.name, .lines[1].sku)",
        r#"{"customer":{"name":"Ann"},"lines":[null,{"sku":"b"}]}"#,
    ),
    ("[.lines[0] | paths]", r#"[["sku"],["qty"],["price"]]"#),
    (
        "{a: {b: [1]}} | [paths], [leaf_paths], [paths(type == \"array\")]",
        r#"[[["a"],["a","b"],["a","b",0]],[["a","b",0]],[["a","b"]]]"#,
    ),
    (
        "getpath([\"customer\",\"name\"]), getpath([\"x\",\"y\"])",
        r#"["Ann",null]"#,
    ),
    ("{} | setpath([\"a\", 1, \"b\"]; 5)", r#"{"a":[null,{"b":5}]}"#),
    (
        "[path(.customer.tags[])]",
        r#"[["customer","tags",0],["customer","tags",1]]"#,
    ),
    (
        "{a: [1, {b: 2}]} | [tostream] | fromstream(.[])",
        r#"{"a":[1,{"b":2}]}"#,
    ),
    // updates
    (".customer.name = \"Bob\" | .customer.name", r#""Bob""#),
    (
        ".customer.age |= 5 | .customer",
        r#"{"name":"Ann","tags":["new","vip"],"age":5}"#,
    ),
    (".lines[].qty += 1 | [.lines[].qty]", "[3,2,5]"),
    (".lines |= map(.sku) | .lines", r#"["a","b","a"]"#),
    (".lines[0] |= empty | [.lines[].sku]", r#"["b","a"]"#),
    (".note //= \"n\" | .note", r#""n""#),
    (".a.b[1].c = 1 | .a", r#"{"b":[null,{"c":1}]}"#),
    (
        "[1,2,3] | .[1:] = [9], .[-1] = 7, .[5] = 1",
        "[[1,9],[1,2,7],[1,2,3,null,null,1]]",
    ),
    ("{a: 1} | .a -= 3 | .b += 2", r#"{"a":-2,"b":2}"#),
    (
        "[[1, 2], 3] | walk(if type == \"number\" then . + 1 else . end)",
        "[[2,3],4]",
    ),
    (
        "(.lines[] | select(.sku == \"b\") | .qty) = 100 | [.lines[].qty]",
        "[2,100,4]",
    ),
    (
        "reduce .lines[] as $l ({}; .[$l.sku] += $l.qty)",
        r#"{"a":6,"b":1}"#,
    ),
    (
        "[\"a\",\"b\"] | to_entries | map(\"\\(.key)\\(.value)\") | join(\"-\")",
        r#""0a-1b""#,
    ),
    // texts
    (
        "\"Hi \\(.customer.name), total \\(.total)\"",
        r#""Hi Ann, total 12.5""#,
    ),
    (
        "\"\\(10/2) \\([1,{\"a\":null}]) \\(.note)\"",
        r#""5 [1,{\"a\":null}] null""#,
    ),
    (
        "\"abc\" | length, ascii_upcase, utf8bytelength, explode",
        r#"[3,"ABC",3,[97,98,99]]"#,
    ),
    (
        "\"äö\" | length, utf8bytelength, .[1:], reverse",
        r#"[2,4,"ö","öä"]"#,
    ),
    ("[97,228] | implode", r#""aä""#),
    ("65 | ascii", r#""A""#),
    ("\"a,b,c\" | split(\",\") | join(\";\")", r#""a;b;c""#),
    ("[\"a\", 1, null, true] | join(\"-\")", r#""a-1--true""#),
    ("\"  x \" | trim, ltrim, rtrim", r#"["x","x ","  x"]"#),
    (
        "\"prefix-x\" | ltrimstr(\"prefix-\"), rtrimstr(\"x\"), ltrimstr(1), startswith(\"pre\"), endswith(\"y\")",
        r#"["x","prefix-","prefix-x",true,false]"#,
    ),
    ("\"xax\" | trimstr(\"x\")", r#""a""#),
    (
        "\"x\" | rtrimstr(\"longer\"), ltrimstr(\"longer\"), rtrimstr(\"\")",
        r#"["x","x","x"]"#,
    ),
    (
        "\"banana\" | index(\"an\"), rindex(\"an\"), indices(\"ana\")",
        "[1,3,[1,3]]",
    ),
    ("\"12\", \"-1.5e1\", 3 | tonumber", "[12,-15,3]"),
    (
        "[1, \"a\", null, [1]] | map(tostring)",
        r#"["1","a","null","[1]"]"#,
    ),
    (
        "[{a: [1, \"x\"]}] | tojson | ., fromjson",
        r#"["[{\"a\":[1,\"x\"]}]",[{"a":[1,"x"]}]]"#,
    ),
    ("\"true\" | toboolean", "true"),
    (
        "[1, \"a\", null, true, [], {}] | map(type)",
        r#"["number","string","null","boolean","array","object"]"#,
    ),
    // regular expressions
    (
        "\"test-42\" | test(\"\\\\d+\"), test(\"X\"), test(\"TEST\"; \"i\"), test([\"TEST\", \"i\"])",
        "[true,false,true,true]",
    ),
    (
        "\"xäb1\" | match(\"(?<l>b)(?<d>\\\\d)|(z)\") | .offset, .length, .string, (.captures | length), .captures[0]",
        r#"[2,2,"b1",3,{"offset":2,"length":1,"string":"b","name":"l"}]"#,
    ),
    (
        "\"a1b22\" | [match(\"\\\\d+\"; \"g\") | .string]",
        r#"["1","22"]"#,
    ),
    (
        "\"k=v\" | capture(\"(?<key>\\\\w)=(?<value>\\\\w)\")",
        r#"{"key":"k","value":"v"}"#,
    ),
    (
        "\"a1b2\" | [scan(\"\\\\d\")], [scan(\"([a-z])(\\\\d)\")]",
        r#"[["1","2"],[["a","1"],["b","2"]]]"#,
    ),
    (
        "\"a, b;c\" | split(\"[,;] *\"; null), [splits(\", *\")]",
        r#"[["a","b","c"],["a","b;c"]]"#,
    ),
    (
        "\"abcabc\" | sub(\"b\"; \"X\"), gsub(\"b\"; \"X\"), gsub(\"(?<c>[ac])\"; \"<\\(.c)>\")",
        r#"["aXcabc","aXcaXc","<a>b<c><a>b<c>"]"#,
    ),
    (
        "\"aaa\" | gsub(\"\"; \"-\"), gsub(\"^\"; \">\")",
        r#"["-a-a-a-",">aaa"]"#,
    ),
    ("\"Ab\" | gsub(\"a\"; \"x\"; \"i\")", r#""xb""#),
    // numbers
    ("3.7 | floor, ceil, round, sqrt * 0, trunc", "[3,4,4,0,3]"),
    (
        "pow(2; 10), (9 | sqrt), (100 | log10), (-5 | abs), (-5.5 | fabs)",
        "[1024,3,2,5,5.5]",
    ),
    (
        "[nan, infinite, 1] | map(isnan), map(isinfinite), map(isnormal)",
        "[[true,false,false],[false,true,false],[false,false,true]]",
    ),
    ("nan, infinite", "[null,null]"),
    (
        "[1,2] | (.[0] / .[1]) * 100 | floor | tostring + \"%\"",
        r#""50%""#,
    ),
    ("8 | logb, significand, frexp", "[3,1,[0.5,4]]"),
    // times
    ("now", "1000000000.123"),
    ("now | todate", r#""2001-09-09T01:46:40.123Z""#),
    (
        "1700000000 | todate, (gmtime | mktime), strftime(\"%Y-%m-%d\")",
        r#"["2023-11-14T22:13:20Z",1700000000,"2023-11-14"]"#,
    ),
    (
        "\"2023-11-14T22:13:20Z\" | fromdate, (strptime(\"%Y-%m-%dT%H:%M:%SZ\") | mktime)",
        "[1700000000,1700000000]",
    ),
    // formats
    (
        "[1, \"a\\\"b\", null, true] | @csv, @tsv",
        r#"["1,\"a\"\"b\",,true","1\ta\"b\t\ttrue"]"#,
    ),
    (
        "\"a b&c\" | @uri, @html, @sh, @base64, @json, @text",
        r#"["a%20b%26c","a b&amp;c","'a b&c'","YSBiJmM=","\"a b&c\"","a b&c"]"#,
    ),
    (
        "@uri \"https://x/?q=\\(\"ä b\")\"",
        r#""https://x/?q=%C3%A4%20b""#,
    ),
    ("\"YWI\" | @base64d", r#""ab""#),
    ("@base64 \"\\(\"x\")\"", r#""eA==""#),
    ("[\"it's\", 1] | @sh", r#""'it'\\''s' 1""#),
    ("\"a%20b\" | @urid", r#""a b""#),
    ("\"<'&\\\">\" | @html", r#""&lt;&#39;&amp;&quot;&gt;""#),
    // comments and space
    (".id # the id", r#""o-1""#),
    ("\n.customer\n  | .name\n", r#""Ann""#),
];

#[test]
fn ordinary_expressions_yield_what_jq_yields() {
    assert!(TABLE.len() >= 80);
    let wrong: Vec<String> = TABLE
        .iter()
        .filter_map(|(source, expected)| {
            let found = evaluate(source, ORDER);
            (found.as_deref() != Ok(*expected))
                .then(|| format!("{source}\n  want {expected}\n  got  {found:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn failures_are_expression_problems_with_the_source() {
    for (source, message) in [
        (
            ".total.x",
            "`.total.x`: cannot index number (12.5) with string (\"x\")",
        ),
        (".lines.x", "cannot index array"),
        (".id[0]", "cannot index string"),
        (".id | .x", "cannot index string (\"o-1\") with string (\"x\")"),
        (".total[]", "cannot use number (12.5) as array or object"),
        ("1 + \"a\"", "number (1) and string (\"a\") cannot be added"),
        ("1 / 0", "the divisor is zero"),
        ("1 % 0", "the divisor is zero"),
        ("error(\"my words\")", "my words"),
        ("error({code: 5})", "{\"code\":5}"),
        ("error(null)", "null"),
        ("{(1): 2}", "object keys must be strings, not number (1)"),
        ("\"x\" | tonumber", "cannot be parsed as a number"),
        ("\"{\" | fromjson", "invalid JSON"),
        ("\"x\" | fromdate", ""),
        (
            "\"(\" as $re | \"x\" | test($re)",
            "not a usable regular expression",
        ),
        ("\"a\" | test(\"a\"; \"q\")", "`q` is not a flag"),
        (
            "1 | ltrimstr(1) | keys",
            "cannot use number (1) as array or object",
        ),
        ("[1] | implode | .[0]", "cannot index string"),
        ("[55555555] | implode", "cannot use 55555555 as character"),
        ("now | strftime(\"%Q\")", "UTC"),
        ("[[1]] | @csv", "cannot be a cell of @csv"),
        ("true | length", "has no length"),
        ("[1] | .[-5] = 1", "out of bounds"),
    ] {
        let detail = evaluate(source, ORDER).expect_err(source);
        assert!(detail.contains(message), "{source}: {detail}");
    }
    let expression = Expression::compile(".a | .b", &scope()).unwrap();
    let problem = expression
        .evaluate(&value::parse(r#"{"a":1}"#).unwrap(), &[], &EvalEnv::at(0))
        .unwrap_err();
    assert_eq!(
        (problem.status, problem.standard()),
        (400, Some(millrace_common::ErrorKind::Expression))
    );
}

#[test]
fn variables_are_those_that_are_used_in_the_order_of_the_scope() {
    for (source, used) in [
        (".", &[][..]),
        ("$x.a", &["x"]),
        ("$x + $context.a", &["context", "x"]),
        ("[.[] as $x | $x] | $input", &["input"]),
        ("def f($x): $x + $context; f(1)", &["context"]),
        ("reduce .[] as $x ($context; . + $x)", &["context"]),
        ("reduce .[] as $x (0; . + $x) | $x", &["x"]),
        ("\"\\($task.name)\"", &["task"]),
        (
            ".[$x:$input] | {$secrets, (\"k\"): $workflow}",
            &["input", "secrets", "workflow", "x"],
        ),
        ("if $x then $x else $input end", &["input", "x"]),
        ("try $x catch $input", &["input", "x"]),
    ] {
        assert_eq!(
            Expression::compile(source, &scope()).unwrap().variables(),
            used,
            "{source}"
        );
    }
}

#[test]
fn values_of_variables_are_taken_in_that_order() {
    let expression = Expression::compile("[$x, $context, $x]", &scope()).unwrap();
    let values = [value::string("c"), value::string("x")];
    let result = expression
        .evaluate(&value::number_i64(0), &values, &EvalEnv::at(0))
        .unwrap();
    assert_eq!(value::to_json_string(&result), r#"["x","c","x"]"#);
}

#[test]
fn shortcuts_do_exactly_what_jq_does() {
    let inputs = [
        "null",
        "true",
        "5",
        "\"text\"",
        "[]",
        "[1,2,3]",
        "[{\"a\":1}]",
        "{}",
        r#"{"a":{"b":{"c":1}},"b":[1,[2]]}"#,
        r#"{"a":null,"and":1,"a_1":2}"#,
        r#"{"a":5}"#,
        r#"{"a":[{"b":7}],"x y":1}"#,
    ];
    let sources = [
        ".",
        ".a",
        ".a.b",
        ".a.b.c",
        ".b[0]",
        ".b[1][0]",
        ".b[7]",
        ".[0]",
        ".[\"a\"]",
        ".[\"x y\"]",
        ".a[0].b",
        ".and",
        ".a_1",
        "$x",
        "$x.a",
        "$x[0]",
        "$x.a.b",
        "1",
        "\"s\"",
        "null",
        "true",
        "false",
        "[]",
        "{}",
        "0",
        "007",
    ];
    for source in sources {
        let quick = Expression::compile(source, &scope());
        // Around it, nothing that changes the meaning, but no shortcut either.
        let slow = Expression::compile(&format!("({source})"), &scope());
        let (Ok(quick), Ok(slow)) = (quick, slow) else {
            panic!("{source}")
        };
        assert_eq!(quick.variables(), slow.variables());
        for input in inputs {
            let input = value::parse(input).unwrap();
            let vars = vec![input.clone(); quick.variables().len()];
            let results = [&quick, &slow].map(|e| {
                let result = e.evaluate(&input, &vars, &EvalEnv::at(NOW_MS));
                result.map(|v| value::to_json_string(&v)).map_err(|p| {
                    p.detail
                        .unwrap_or_default()
                        .split_once("`: ")
                        .map(|(_, text)| text.to_owned())
                })
            });
            assert_eq!(
                results[0],
                results[1],
                "{source} on {}",
                value::to_json_string(&input)
            );
        }
    }
}

#[test]
fn truth_is_that_of_jq() {
    for (source, expected) in [
        ("0", true),
        ("\"\"", true),
        (".x", false),
        ("1 == 2", false),
        ("empty", false),
    ] {
        let expression = Expression::compile(source, &scope()).unwrap();
        assert_eq!(
            expression.test(&value::object([]), &[], &EvalEnv::at(0)),
            Ok(expected),
            "{source}"
        );
    }
}

#[test]
fn evaluation_is_deterministic_and_thread_safe() {
    fn shared<T: Send + Sync>(_: &T) {}
    let expression = Expression::compile("[now, (keys | sort), (to_entries | length)]", &scope()).unwrap();
    shared(&expression);
    let input = value::parse(ORDER).unwrap();
    let run = || value::to_json_string(&expression.evaluate(&input, &[], &EvalEnv::at(5)).unwrap());
    let here = run();
    let there = std::thread::scope(|s| s.spawn(run).join().unwrap());
    assert_eq!(here, there);
    assert!(here.starts_with("[0.005,"), "{here}");
}

#[test]
fn only_a_whole_text_is_an_expression() {
    assert_eq!(strip("${ .a }"), Some((2, " .a ")));
    assert_eq!(strip("  ${.a}\n"), Some((4, ".a")));
    assert_eq!(strip("${ {a: 1} }"), Some((2, " {a: 1} ")));
    for text in ["", ".a", "Hi ${ .a }", "${ .a } there", "$ {.a}", "${", "{.a}"] {
        assert_eq!(strip(text), None, "{text}");
    }
}

#[test]
fn long_lists_and_objects_need_no_deep_stack() {
    let list = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(
        evaluate(&format!("[{}] | length", list(3000)), "null").as_deref(),
        Ok("3000")
    );
    let members = (0..1000)
        .map(|i| format!("k{i}:{i}"))
        .collect::<Vec<_>>()
        .join(",");
    assert_eq!(
        evaluate(
            &format!("{{{members}}} | [length, .k7, (keys_unsorted | .[999])]"),
            "null"
        )
        .as_deref(),
        Ok(r#"[1000,7,"k999"]"#)
    );
    assert_eq!(
        evaluate("[(1,2) + (10,20)], [{a:(1,2),b:(3,4)} | [.a,.b]]", "null").as_deref(),
        Ok("[[11,21,12,22],[[1,3],[1,4],[2,3],[2,4]]]")
    );
}

#[test]
fn large_data_is_handled_within_the_default_fuel() {
    let items: Vec<String> = (0..10_000)
        .map(|i| {
            format!(
                r#"{{"id":{i},"group":"g{}","price":{}.5,"tags":["x","y"]}}"#,
                i % 100,
                i % 7
            )
        })
        .collect();
    let input = format!("{{\"items\":[{}]}}", items.join(","));
    assert!(input.len() < millrace_common::limits::PAYLOAD_BYTES_MAX);
    for (source, expected) in [
        (".items | map(.price) | add | floor", "34994"),
        ("[.items[] | select(.price > 6) | {id, price}] | length", "1428"),
        (
            ".items | group_by(.group) | map({key: .[0].group, value: length}) | from_entries | length",
            "100",
        ),
        ("reduce .items[] as $i ({}; .[$i.group] += [$i]) | length", "100"),
        (
            "reduce .items[] as $i ({}; .[$i.group].total += $i.price) | length",
            "100",
        ),
        (".items | sort_by(.price, -.id) | .[0].id", "9996"),
        ("{all: ., first: .items[0], n: (.items | length)} | .n", "10000"),
        ("[.items[] | .tags |= map(ascii_upcase)] | .[5].tags[0]", "\"X\""),
        ("[.. | strings] | length", "30000"),
        (".items | map(.id | tostring) | join(\",\") | length", "48889"),
        ("[.items[] | .group | sub(\"g\"; \"h\")] | .[0]", "\"h0\""),
        ("del(.items[] | select(.id > 100)) | .items | length", "101"),
        ("tojson | length > 100000", "true"),
        (
            "tojson[:10000] | gsub(\"[0-9]+\"; \"n\") | test(\"id\\\":n\")",
            "true",
        ),
    ] {
        assert_eq!(evaluate(source, &input).as_deref(), Ok(expected), "{source}");
    }
}

/// Run with `cargo test --workspace --release --lib -- --ignored --nocapture costs`.
#[test]
#[ignore = "a measurement"]
fn costs() {
    let input = value::parse(ORDER).unwrap();
    for source in [
        ".customer.name",
        "$context.user",
        "1",
        ".total > 10",
        ".customer.name == \"Ann\"",
        "{id, name: .customer.name}",
        ".lines | map(.qty * .price) | add",
        "[.lines[] | select(.qty > 1) | .sku] | unique",
        "\"Hi \\(.customer.name), total \\(.total)\"",
        ".id | test(\"^o-\\\\d+$\")",
    ] {
        let start = std::time::Instant::now();
        let compiled = Expression::compile(source, &Scope(vec!["context".into()])).unwrap();
        let compile = start.elapsed();
        let start = std::time::Instant::now();
        for _ in 0..100 {
            Expression::compile(source, &Scope(vec!["context".into()])).unwrap();
        }
        let again = start.elapsed() / 100;
        let vars = vec![input.clone(); compiled.variables().len()];
        let rounds = 20_000;
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            compiled.evaluate(&input, &vars, &EvalEnv::at(0)).unwrap();
        }
        eprintln!(
            "{source:<50} compile {compile:?} then {again:?}, evaluate {:?}",
            start.elapsed() / rounds
        );
    }
}

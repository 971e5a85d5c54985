//! Expressions that try to hold the coordinator up, to exhaust its memory or to bring it down.
//!
//! Each runs on a thread with 2 MiB of stack, as tests and tokio have, and must end in time in a dev build too.

use std::time::{Duration, Instant};

use super::super::{EvalEnv, Expression};
use super::{NOW_MS, scope};
use crate::{Value, value};

/// Of a dev build.
const TIME_MAX: Duration = Duration::from_secs(2);

/// A machine that is busy with other tests may be slow once or twice.
const TRIES: usize = 5;

const STEPS: &str = "too many steps";
const STACK: &str = "recursion is too deep";
const TEXT: &str = "a text exceeds";
const NODES: &str = "more than 1000000 nodes";
const DEPTH: &str = "nested deeper than 100 levels";

/// Expression, part of the message.
const FAULTS: &[(&str, &str)] = &[
    // endless
    ("[repeat(1)]", STEPS),
    ("last(repeat(.))", STEPS),
    ("def f: f; f", STEPS),
    ("def f: f, f; f", STEPS),
    ("def f: (f, 1); [f]", STEPS),
    ("def f(g): f(g); f(.)", STACK),
    ("def f(g): f(g | g); f(.)", STACK),
    ("def f(g): f(.+1|g); 0 | f(.)", STACK),
    ("def f(g; h): f(h; g); f(1; 2)", STACK),
    ("def a: def b: a; b; a", STEPS),
    ("last(range(1e18))", STEPS),
    ("last(range(0; 1; 0))", STEPS),
    ("first(range(1; infinite) | select(. < 0))", STEPS),
    ("[range(infinite)] | length", NODES),
    ("reduce range(1e12) as $i (0; . + 1)", STEPS),
    ("foreach range(1e12) as $i (0; . + 1; empty)", STEPS),
    ("until(false; . + 1)", STEPS),
    ("[while(true; .)]", STEPS),
    ("[recurse(. + 1)] | length", STEPS),
    (
        "label $x | while(true; .) | if . == 5 then break $x else empty end",
        STEPS,
    ),
    ("[limit(1e9; repeat(1))]", STEPS),
    ("first(skip(1e9; repeat(1)))", STEPS),
    ("isempty(repeat(.) | empty)", STEPS),
    ("all(repeat(true); .)", STEPS),
    ("try repeat(error) catch repeat(1) | empty", STEPS),
    ("[1, 2] | [combinations(30)]", STEPS),
    // catching is no way out
    ("def f: try error(\"x\") catch f; f", STACK),
    ("def f: (try f catch f); f", STACK),
    ("try (try (try [repeat(1)] catch 1) catch 2) catch 3", STEPS),
    ("[repeat(1)]? // 5", STEPS),
    ("first([repeat(1)], 1)", STEPS),
    ("([repeat(1)] | tojson)? // \"caught\"", STEPS),
    ("def f: try (1 + f) catch 5; f", STACK),
    // recursion
    ("def f: 1 + f; f", STACK),
    ("def f: [f]; f", STACK),
    ("def f: {a: f}; f", STACK),
    ("def f: \"\\(f)\"; f", STACK),
    ("def f: -f; f", STACK),
    ("def f: f | f; f", STACK),
    ("def f: f as $x | $x; f", STACK),
    ("def f: if f then 1 else 2 end; f", STACK),
    ("def f: reduce f as $x (0; 1); f", STACK),
    ("def f: first(f); f", STACK),
    ("def f: 0, (f | . + 1); last(f)", STEPS),
    ("def f: .a | path(f); null | path(f)", ""),
    ("def f: [.] | .[0] |= f; f", STACK),
    ("def f: .a | f; null | f |= 1", STACK),
    ("def f: f // f; f", STACK),
    ("def f: f and f; f", STACK),
    ("def f: [.[], 3] | sort_by([., 1] | f); [1, 2] | f", ""),
    ("[range(400000)] as $path | null | setpath($path; 1)", STACK),
    ("null | path(getpath([range(300000)])) | length", STACK),
    ("def f: .[0:] | f; [1] | path(f)", ""),
    ("def f: .a | f; null | path(f)", ""),
    ("reduce range(1000000) as $i (.; .) |= 1", ""),
    ("(reduce range(1000000) as $i (.; .a)) |= 1", ""),
    // depth
    ("reduce range(1000) as $i (0; [.])", DEPTH),
    ("reduce range(1000) as $i (0; {a: .})", DEPTH),
    ("reduce range(1000) as $i (0; {a: [.]} + {b: 1})", DEPTH),
    ("[0] | until(false; .[0] = .)", DEPTH),
    ("{} | until(false; .a.b |= {c: 1} | {a: .})", DEPTH),
    ("reduce range(1000) as $i ({}; {a: .} * {a: {b: 1}})", DEPTH),
    ("reduce range(1000) as $i ([1]; [.] | flatten(0))", ""),
    ("null | .[200000000] = 1", NODES),
    (
        "reduce range(300) as $i (\"1\"; \"[\" + . + \"]\") | fromjson",
        "deeper",
    ),
    // growth
    ("reduce range(60) as $i (1; [., .])", NODES),
    ("reduce range(60) as $i (1; {a: ., b: .})", NODES),
    ("reduce range(60) as $i ([1]; . + .)", NODES),
    ("reduce range(60) as $i ({a: 1}; {a: ., b: (. + {c: .})})", NODES),
    ("reduce range(60) as $i ([1]; map([., .]))", ""),
    ("reduce range(60) as $i ({a: [1]}; .a |= [., .])", NODES),
    ("reduce range(60) as $i ([[1]]; .[0] += .[0])", NODES),
    ("reduce range(60) as $i ([1]; [., .] | flatten)", NODES),
    ("reduce range(60) as $i ([1]; [.[], .[]])", STEPS),
    ("[range(1100000)]", ""),
    ("[range(1000)] as $a | [$a[] | $a] as $b | [$b[] | $b]", ""),
    ("[range(1000)] as $a | $a | map($a) | map([., .])", NODES),
    ("\"x\" * 1e9", TEXT),
    ("\"x\" * 1e300", TEXT),
    ("\"x\" * 1000000000000000000000", TEXT),
    ("\"x\" * infinite", TEXT),
    ("reduce range(60) as $i (\"x\"; . + .)", TEXT),
    ("reduce range(60) as $i (\"x\"; \"\\(.)\\(.)\")", TEXT),
    ("reduce range(60) as $i (\"x\"; [., .] | join(\",\"))", NODES),
    ("reduce range(60) as $i (\"x\"; [., .] | add)", NODES),
    ("reduce range(60) as $i (\"x\"; [., .] | tojson)", TEXT),
    ("reduce range(60) as $i (\"x\"; @json)", TEXT),
    ("reduce range(90) as $i (\"x\"; @base64)", TEXT),
    ("reduce range(60) as $i (\"x\"; gsub(\"\"; \"yy\"))", ""),
    (
        "reduce range(60) as $i (\"x\"; gsub(\"(?<a>.)\"; \"\\(.a)\\(.a)\"))",
        "",
    ),
    ("\"x\" * 8000000 | [., .] | tojson", NODES),
    ("(\"x\" * 8000000) as $s | [range(100) | $s]", NODES),
    ("(\"x\" * 8000000) as $s | {a: $s, b: $s, c: $s}", NODES),
    ("[range(100) | \"x\" * 8000000 | length]", STEPS),
    ("[range(100) | (\"x\" * 4000000) + \"y\" | length] | add", STEPS),
    ("\"x\" * 8000000 | explode", NODES),
    ("\"x\" * 8000000 | . / \"\"", NODES),
    ("\"x,\" * 4000000 | split(\",\")", NODES),
    ("\"x\" * 8000000 | [match(\"x\"; \"g\")]", ""),
    ("reduce range(100000) as $i (2; . * .)", "out of range"),
    ("reduce range(100000) as $i (1; . * 10)", "out of range"),
    (
        "reduce range(100000) as $i (1; . * 1000000007 % 999999999999999999999999999999999)",
        "out of range",
    ),
    // much work per step
    (
        "[range(100000)] as $a | reduce range(100000) as $i (0; $a + [1] | length)",
        STEPS,
    ),
    (
        "[range(100000)] as $a | [range(100000) | $a | sort | length]",
        STEPS,
    ),
    (
        "[range(100000)] as $a | [range(100000) | $a == ($a | map(.))]",
        STEPS,
    ),
    (
        "[range(100000)] as $a | [range(100000) | $a | reverse | .[0]]",
        STEPS,
    ),
    (
        "[range(100000)] as $a | [range(100000) | $a | tojson | length]",
        STEPS,
    ),
    (
        "[range(100000)] as $a | [range(100000) | $a - [1] | length]",
        STEPS,
    ),
    ("[range(100000)] as $a | [range(100000) | $a[1:] | length]", STEPS),
    ("[range(100000)] as $a | [range(100000) | $a | index(5)]", STEPS),
    (
        "[range(100000)] as $a | [range(100000) | $a | indices([5, 6])]",
        STEPS,
    ),
    (
        "[range(100000)] as $a | [range(100000) | $a | contains([99999])]",
        STEPS,
    ),
    (
        "[range(100000)] as $a | [range(100000) | $a | group_by(.) | length]",
        STEPS,
    ),
    ("[range(100000)] as $a | [range(100000) | $a | add]", STEPS),
    (
        "[range(100000)] as $a | [range(100000) | $a | flatten | length]",
        STEPS,
    ),
    (
        "[range(100000)] as $a | [range(100000) | $a | .[5] = 1 | length]",
        STEPS,
    ),
    (
        "[range(100000)] as $a | [range(100000) | $a | del(.[0]) | length]",
        STEPS,
    ),
    (
        "[range(100000)] as $a | reduce range(100000) as $i ($a; del(.[0]))",
        STEPS,
    ),
    (
        "[range(100000) | tostring] as $a | [range(100000) | $a | join(\",\") | length]",
        STEPS,
    ),
    (
        "[range(1000)] as $a | [$a[] as $x | $a[] as $y | $a[] as $z | select($x + $y == $z)]",
        STEPS,
    ),
    (
        "[range(30000) | {key: tostring, value: .}] | from_entries as $o | [range(100000) | $o + {a: 1} | length]",
        STEPS,
    ),
    (
        "[range(30000) | {key: tostring, value: .}] | from_entries as $o | [range(100000) | $o == ($o | map_values(.))]",
        STEPS,
    ),
    (
        "[range(30000) | {key: tostring, value: .}] | from_entries as $o | [range(100000) | [$o, $o] | sort | length]",
        STEPS,
    ),
    ("(\"x\" * 4000000) as $s | [range(100000) | $s | length]", STEPS),
    (
        "(\"x\" * 4000000) as $s | [range(100000) | $s | ascii_downcase | length]",
        STEPS,
    ),
    ("(\"x\" * 4000000) as $s | [range(100000) | $s[1:2]]", STEPS),
    (
        "(\"x\" * 4000000) as $s | [range(100000) | $s | contains(\"y\")]",
        STEPS,
    ),
    (
        "(\"x\" * 4000000) as $s | [range(100000) | $s | trim | .[0:1]]",
        STEPS,
    ),
    (
        "(\"x\" * 4000000) as $s | [range(100000) | $s == ($s + \"\")]",
        STEPS,
    ),
    (
        "(\"x\" * 4000000) as $s | [range(100000) | $s | indices(\"xxxxx\") | length]",
        "",
    ),
    (
        "(\"x\" * 400000) as $s | $s | indices(\"x\" * 200000) | length",
        STEPS,
    ),
    (
        "(\"[\" + (\"1,\" * 900000) + \"1]\") as $s | [range(1000) | $s | fromjson | length]",
        STEPS,
    ),
    (
        "\"[\" + (\"[],\" * 2000000) + \"1]\" | fromjson",
        "cannot be parsed as JSON",
    ),
    // products
    (
        "[(1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2) | (1,2)]",
        STEPS,
    ),
    (
        "[range(100) as $a | range(100) as $b | range(100) as $c | range(100) as $d | 1] | length",
        STEPS,
    ),
    (
        "[[range(100)], [range(100)], [range(100)], [range(100)]] | [combinations] | length",
        STEPS,
    ),
    ("last({a: range(1000), b: range(1000), c: range(1000)})", STEPS),
    ("last(range(1000; 2000; range(1; 1000)) + range(1000))", STEPS),
    ("last(\"\\(range(1000))\\(range(1000))\\(range(1000))\")", STEPS),
    (
        "[range(2000)] | [.[] as $x | .[] as $y | {a: $x, b: $y}] | length",
        "",
    ),
    ("[range(1000)] | transpose?, [range(1e7)]", NODES),
    ("[range(3000) | [range(3000)]] | transpose | length", ""),
    // regular expressions
    ("\"a\" * 100000 | [match(\".*[^a]|a\"; \"g\")] | length", STEPS),
    ("\"a\" * 1000000 | test(\"(a|aa){1,20}(a|aa){1,20}b\")", STEPS),
    ("\"ab\" * 1000000 | test(\"[ab]*a[ab]{300}c\")", STEPS),
    (
        "\"a\" | test(\"a{1000}{1000}{1000}\")",
        "not a usable regular expression",
    ),
    ("\"a\" | test(\"a\" * 100000)", "at most 2048 bytes"),
    ("[range(100000) | tostring as $p | \"x\" | test($p)]", STEPS),
    // what is not there
    ("now | strftime(\"%Y\" * 1000)", "at most 256 bytes"),
    (
        "[range(100000) | now | strftime(\"%Y-%m-%dT%H:%M:%SZ %A %B %j\")]",
        "",
    ),
    ("\"Europe/Berlin\" | strptime(\"%Q\")", "UTC"),
];

/// Expressions that may fail or not, but must end. The last ones use about as much as is permitted, so that the
/// prices must be right.
const ENDS: &[&str] = &[
    "reduce range(60) as $i ({a: {b: 1}}; .a.b = .a)",
    "reduce range(60) as $i ([1, 2]; .[1:] = .)",
    "reduce range(60) as $i (\"<\"; @html)",
    "reduce range(60) as $i (\"ä\"; @uri)",
    ".. |= ([., .] | [., .])",
    "\"a\" * 30000 | test(\"^(a+)+$b\")",
    "\"a\" | test(\"(\" * 1000 + \"a\" + \")\" * 1000)",
    "\"ab\" * 90000 | test(\"[ab]*a[ab]{300}c\")",
    "\"ab\" * 700000 | test(\"[ab]*a[ab]{30}c\")",
    "[range(150000)] | sort_by(-.) | length",
    "[range(100000) | {a: ., b: [.]}] | length",
    "[range(200000) | {}] | length",
    "[range(150000) | [[]]] | length",
    "[range(100000) | tostring] | sort | unique | length",
    "[range(60000) | {key: tostring, value: {}}] | from_entries | length",
    "[limit(100000; repeat([]))] | length",
    "def f: if . > 20000 then . else . + 1 | f + 0 end; 0 | f",
    "def f: if . == 0 then [] else . - 1 | [f] end; 99 | f",
    "def f($n): if $n == 0 then 0 else 1 + f($n - 1) end; f(5000)",
    "def f(g): if . > 500 then g else . + 1 | f(g + 1) end; 0 | f(.)",
    "\"[\" + (\"[],\" * 600000) + \"1]\" | fromjson | length",
    "\"[\" + (\"{},\" * 600000) + \"1]\" | fromjson | length",
    "(\"x\" * 8000000) | . + \"y\" | length",
    "[range(16) | \"x\" * 8000000 | length]",
    "[foreach range(100000) as $i ([]; . + [$i]; length)] | length",
    "reduce range(100000) as $i ({}; .[$i | tostring] = $i) | length",
    "reduce range(100000) as $i (\"\"; . + \"0123456789\") | length",
    "[range(100000)] | tojson | fromjson | length",
    "[range(50000)] | combinations?",
    "[range(100000)] as $a | $a | to_entries | map(.value) | add",
    "def f: f, f; first(f)",
    "(1, 2, 3) as [$a] | $a",
];

/// Runs on a small stack until it was quick enough; gives the message, if it failed.
fn run(source: &str, input: &Value) -> (Result<Value, String>, Duration) {
    let mut fastest = run_once(source, input);
    for _ in 1..TRIES {
        if fastest.1 > TIME_MAX {
            fastest = run_once(source, input);
        }
    }
    fastest
}

fn run_once(source: &str, input: &Value) -> (Result<Value, String>, Duration) {
    let work = || {
        let start = Instant::now();
        let expression = match Expression::compile(source, &scope()) {
            Ok(expression) => expression,
            Err(e) => return (Err(format!("does not compile: {e:?}")), start.elapsed()),
        };
        let vars = vec![Value::default(); expression.variables().len()];
        let result = expression.evaluate(input, &vars, &EvalEnv::at(NOW_MS));
        let elapsed = start.elapsed();
        (result.map_err(|p| p.detail.unwrap_or_default()), elapsed)
    };
    std::thread::scope(|s| {
        let small = std::thread::Builder::new()
            .stack_size(2 * 1024 * 1024)
            .spawn_scoped(s, work);
        small.unwrap().join().unwrap()
    })
}

fn shown(source: &str) -> String {
    source.chars().take(90).collect()
}

#[test]
fn costly_expressions_end_in_time() {
    let mut wrong = Vec::new();
    for source in ENDS {
        let (result, elapsed) = run(source, &value::number_i64(0));
        let outcome = result.map_or_else(|detail| detail, |v| value::excerpt(&v, 60));
        show(source, elapsed, &outcome);
        if elapsed > TIME_MAX {
            wrong.push(format!("{}\n  {elapsed:?} {outcome}", shown(source)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// With `SHOW=1` in the environment, for calibrating the prices: time, peak of memory, outcome.
fn show(source: &str, elapsed: Duration, outcome: &str) {
    if std::env::var_os("SHOW").is_none() {
        return;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status
        .lines()
        .find(|l| l.starts_with("VmHWM"))
        .unwrap_or_default()
        .replace("VmHWM:", "");
    // Resets the peak.
    std::fs::write("/proc/self/clear_refs", "5").ok();
    let outcome = outcome.rsplit("`: ").next().unwrap_or_default();
    eprintln!(
        "{elapsed:>12?} {:>12} {:<70} {}",
        peak.trim(),
        shown(source),
        shown(outcome)
    );
}

#[test]
fn hostile_expressions_fail_in_time() {
    assert!(FAULTS.len() >= 40);
    let mut wrong = Vec::new();
    for (source, message) in FAULTS {
        let (result, elapsed) = run(source, &value::number_i64(0));
        let detail = match result {
            Ok(v) => format!("no error: {}", value::excerpt(&v, 60)),
            Err(detail) => detail,
        };
        show(source, elapsed, &detail);
        if elapsed > TIME_MAX || !detail.contains(message) || detail.starts_with("no error") {
            wrong.push(format!("{}\n  {elapsed:?} {detail}", shown(source)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// As long and as deep as the bound on the source allows.
fn deep_sources() -> Vec<String> {
    let around = |open: &str, inner: &str, close: &str| {
        let n = (16_384 - inner.len()) / (open.len() + close.len());
        format!("{}{inner}{}", open.repeat(n), close.repeat(n))
    };
    let chain =
        |first: &str, link: &str| format!("{first}{}", link.repeat((16_384 - first.len()) / link.len()));
    vec![
        around("(", "1", ")"),
        around("[", "1", "]"),
        around("{a:", "1", "}"),
        around("{(", "\"a\"", "):1}"),
        around("\"\\(", "1", ")\""),
        around(".[", "0", "]"),
        around("-", "1", ""),
        around("try ", "1", ""),
        around("try error catch ", "1", ""),
        around("if 1 then ", "1", " end"),
        around("if ", "1", " then 1 end"),
        around("if . then 1 else ", "1", " end"),
        around("def f: ", "1", "; f"),
        around("def f(g): g; f(", "1", ")"),
        around("def f: 1; ", "f", ""),
        around("label $x | ", "1", ""),
        around(". as $x | ", "$x", ""),
        around("1 as [$x] | ", "1", ""),
        around("reduce ", ".", " as $x (0; 1)"),
        around("reduce 1 as $x (0; ", "1", ")"),
        around("reduce 1 as $x (", "1", "; 1)"),
        around("foreach 1 as $x (0; 1; ", "1", ")"),
        around("first(", "1", ")"),
        around("map(", "1", ")"),
        around("path(", ".", ")"),
        around("select(", "1", ")"),
        around("recurse(", "empty", ")"),
        around("[.[] | ", "1", "]"),
        around("1 as [", "$x", "]"),
        around("@json \"\\(", "1", ")\""),
        chain("1", "|1"),
        chain("1", ",1"),
        chain("1", "+1"),
        chain("1", " and 1"),
        chain("1", "//1"),
        chain(".", "|=."),
        chain(".a", "=1"),
        chain(".", "+=1"),
        chain(".a", ".a"),
        chain(".", "[0]"),
        chain(".", "[]?"),
        chain("path(.", "[0]") + ")",
        chain(".", "[0]") + " = 1",
        format!(". as [{}] | $a", vec!["$a"; 4000].join(",")),
        format!(". as {{{}}} | $a", vec!["a:$a"; 3000].join(",")),
        chain(".", "?"),
        chain("1", " as $x|1"),
        chain("1", "==1"),
        chain("if 1 then 1", " elif 1 then 1") + " end",
        "(".repeat(16_000),
        "[".repeat(16_000),
        "{".repeat(16_000),
        "\"\\(".repeat(5_000),
        "def f: ".repeat(2_000),
        "if ".repeat(5_000),
        "#".repeat(16_000),
        "\\".repeat(16_000),
        ")".repeat(16_000),
        "$x ".repeat(5_000),
        "a::".repeat(5_000),
        format!(
            "{{{}}}",
            (0..1500)
                .map(|i| format!("a{i}: .a{i}"))
                .collect::<Vec<_>>()
                .join(",")
        ),
        format!("\"{}\"", "\\(.)".repeat(4_000)),
        format!("[{}]", vec!["\"DE\""; 3000].join(",")),
        format!(
            "{} f0",
            (0..700)
                .rev()
                .map(|i| format!("def f{i}: 1; "))
                .collect::<String>()
        ),
        format!(
            "def f({}): 1; 1",
            (0..2000).map(|i| format!("a{i}")).collect::<Vec<_>>().join(";")
        ),
    ]
}

#[test]
fn deep_sources_neither_overflow_the_stack_nor_take_long() {
    for source in deep_sources() {
        assert!(
            source.len() <= 16_384 + 4_000,
            "{} {}",
            source.len(),
            shown(&source)
        );
        let source = source.get(..16_384).unwrap_or(&source);
        for input in [Value::default(), value::parse(r#"{"a":[1]}"#).unwrap()] {
            let (result, elapsed) = run(source, &input);
            let outcome = result.map_or_else(|detail| detail, |v| value::excerpt(&v, 60));
            show(source, elapsed, &outcome);
            assert!(elapsed < TIME_MAX, "{elapsed:?} {}", shown(source));
        }
    }
}

/// On a stack such as a test's, tokio's and the main thread's.
#[test]
fn values_at_the_bounds_can_be_used_and_dropped() {
    let deep = value::parse(&format!("{}1{}", "[".repeat(100), "]".repeat(100))).unwrap();
    for source in [
        "[..] | length",
        ". == .",
        "tojson | fromjson == .",
        "flatten",
        "[paths] | length",
        "walk(.)",
        "tostream",
        "[., .] | sort",
        "del(.[0][0])",
        "[tostream] | length",
    ] {
        let (result, _) = run(source, &deep);
        assert!(
            result.is_ok() || result.as_ref().is_err_and(|e| e.contains("deeper")),
            "{source}: {result:?}"
        );
    }
}

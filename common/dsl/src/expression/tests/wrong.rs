//! What is said about expressions that do not compile.

use super::super::Expression;
use super::scope;

#[test]
fn compile_errors_have_a_place_and_a_hint() {
    for (source, offset, message, hint) in [
        ("", 0, "the expression is empty", "use `.`"),
        ("  ", 0, "the expression is empty", "use `.`"),
        (".a +", 4, "expected term, found the end", ""),
        (".a | | .b", 5, "expected term, found `|`", ""),
        (".a == 'x'", 6, "found `'x'`", "double quotes"),
        (".a && .b", 3, "found `&& .b`", "use `and`"),
        (".a || .b", 3, "found `||`", "use `or`"),
        ("[1, 2", 5, "expected closing bracket, found the end", ""),
        ("\"abc", 4, "expected closing quote, found the end", ""),
        (".a }", 3, "found `}", "closes nothing"),
        (" .a } and ${ .b ", 4, "found `} and", "whole text"),
        ("if .a then 1", 12, "expected", ""),
        (".a | foo(1)", 5, "unknown function `foo`", ""),
        (
            ".a | mapp(.b)",
            5,
            "unknown function `mapp`",
            "did you mean `map`?",
        ),
        (
            ".a | lenght",
            5,
            "unknown function `lenght`",
            "did you mean `length`?",
        ),
        (
            ".a | map",
            5,
            "`map` does not take 0 arguments",
            "takes 1 arguments",
        ),
        ("env", 0, "unknown function `env`", "deterministic"),
        ("env.PATH", 0, "unknown function `env`", "deterministic"),
        ("$ENV.PATH", 0, "unknown variable `$ENV`", "deterministic"),
        ("$__loc__", 0, "unknown variable `$__loc__`", "not supported"),
        ("input", 0, "unknown function `input`", "no inputs"),
        ("[inputs]", 1, "unknown function `inputs`", "no inputs"),
        ("debug", 0, "unknown function `debug`", "no output"),
        ("halt", 0, "unknown function `halt`", "end a process"),
        (
            "halt_error(1)",
            0,
            "unknown function `halt_error`",
            "end a process",
        ),
        ("now | localtime", 6, "unknown function `localtime`", "UTC"),
        ("@base32 \"a\"", 0, "unknown function `@base32`", "@base64"),
        ("@foo", 0, "unknown function `@foo`", ""),
        ("customer", 0, "unknown function `customer`", "write `.customer`"),
        (
            "$contxt.a",
            0,
            "unknown variable `$contxt`",
            "did you mean `$context`?",
        ),
        (
            ".a + $secret.b",
            5,
            "unknown variable `$secret`",
            "did you mean `$secrets`?",
        ),
        (
            "$nope",
            0,
            "unknown variable `$nope`",
            "you can use `$context`, `$input`",
        ),
        (
            "[.[] as $y | $y] | $y",
            19,
            "unknown variable `$y`",
            "you can use",
        ),
        ("__link", 0, "unknown function `__link`", ""),
        ("__error", 0, "unknown function `__error`", ""),
        ("tobytes", 0, "unknown function `tobytes`", "base64"),
        ("break $out", 6, "unknown label `$out`", ""),
        ("import \"a\" as a; .", 0, "", ""),
        ("modulemeta", 0, "unknown function `modulemeta`", "no modules"),
        ("a::b", 0, "unknown module", ""),
    ] {
        let error = Expression::compile(source, &scope())
            .err()
            .unwrap_or_else(|| panic!("{source} compiles"));
        assert!(error.message.contains(message), "{source}: {error:?}");
        assert!(
            error.hint.as_deref().unwrap_or_default().contains(hint),
            "{source}: {error:?}"
        );
        if !message.is_empty() {
            assert_eq!(error.offset, offset, "{source}: {error:?}");
        }
    }
}

#[test]
fn offsets_count_bytes() {
    let error = Expression::compile("\"äöü\" | fooo", &scope()).unwrap_err();
    assert_eq!(error.offset, "\"äöü\" | ".len());
}

#[test]
fn a_place_without_variables_says_so() {
    let error = Expression::compile("$foo", &super::Scope::default()).unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("no variables can be used here"));
}

#[test]
fn a_source_that_is_too_long_is_refused() {
    let error = Expression::compile(&"1+".repeat(10_000), &scope()).unwrap_err();
    assert!(error.message.contains("more than 16384 bytes"), "{error:?}");
}

//! Valid definitions, and the tree that comes of them.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use millrace_common::{CatchUp, Overlap};
use millrace_dsl::duration::Duration;
use millrace_dsl::expression::Expression;
use millrace_dsl::model::*;
use millrace_dsl::template::Template;
use millrace_dsl::{Span, Value, parse, unsupported, value};

const HEAD: &str = "document: { dsl: 1.0.3, namespace: test, name: test, version: 1.0.0 }\n";

fn document(source: &str) -> Arc<Document> {
    let source = format!("{HEAD}{source}");
    match parse(&source) {
        Ok(parsed) => parsed.document,
        Err(faults) => panic!("{source}\n{faults:#?}"),
    }
}

/// The task `t` of a definition, with its body given at indentation 4.
fn task(body: &str) -> Task {
    document(&format!("do:\n- t:\n{body}")).tasks.tasks[0].clone()
}

fn warnings(source: &str) -> Vec<String> {
    let parsed = parse(&format!("{HEAD}{source}")).unwrap();
    parsed.warnings.iter().map(ToString::to_string).collect()
}

/// What a build does not execute: the first word of each message.
fn pending(source: &str) -> Vec<String> {
    let of = |d: &millrace_dsl::Diagnostic| format!("{}:{} {}", d.span.line, d.span.column, d.message);
    unsupported(&document(source)).iter().map(of).collect()
}

fn source(expression: &Expression) -> &str {
    expression.source().trim()
}

/// A template as text: expressions in angle brackets, keys without quotes.
fn json(template: &Template) -> String {
    match template {
        Template::Literal(v) => plain(v),
        Template::Expression(e) => format!("<{}>", source(e)),
        Template::Array(items) => format!("[{}]", items.iter().map(json).collect::<Vec<_>>().join(",")),
        Template::Object(members) => {
            let member = |(k, t): &(String, Template)| format!("{k}:{}", json(t));
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
        }
    }
}

fn plain(v: &Value) -> String {
    match v {
        Value::Arr(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(",")),
        Value::Obj(members) => {
            let member = |(k, v)| format!("{}:{}", value::as_str(k).unwrap(), plain(v));
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
        }
        _ => value::to_json_string(v),
    }
}

fn ms(duration: &DurationValue) -> u64 {
    match duration {
        DurationValue::Fixed(Duration(ms)) => *ms,
        DurationValue::Computed(e) => panic!("computed: {}", e.source()),
    }
}

macro_rules! kind {
    ($task:expr, $variant:ident) => {
        match $task.kind {
            TaskKind::$variant(inner) => inner,
            other => panic!("{other:?}"),
        }
    };
}

fn call(body: &str) -> Call {
    *kind!(task(body), Call)
}

fn http(with: &str) -> HttpCall {
    match call(&format!("    call: http\n    with: {with}\n")) {
        Call::Http(http) => http,
        other => panic!("{other:?}"),
    }
}

fn catch(body: &str) -> Catch {
    kind!(
        task(&format!(
            "    try: [ {{ x: {{ set: {{ a: 1 }} }} }} ]\n    catch: {body}\n"
        )),
        Try
    )
    .catch
}

fn listen(body: &str) -> Listen {
    *kind!(task(body), Listen)
}

#[test]
fn head() {
    let document = parse(
        "document:\n  dsl: 1.0.0\n  namespace: shop\n  name: order\n  version: 1.2.3-rc.1+b\n  title: Order\n  \
         summary: |\n    text\n  tags: { a: 1 }\n  metadata: { x: 1, millrace: { queue: gpu } }\ndo: []\n",
    )
    .unwrap()
    .document;
    assert_eq!(document.dsl, "1.0.0");
    assert_eq!(
        (document.namespace.as_str(), document.name.as_str()),
        ("shop", "order")
    );
    assert_eq!(document.version, "1.2.3-rc.1+b");
    assert_eq!(document.title.as_deref(), Some("Order"));
    assert_eq!(document.summary.as_deref(), Some("text\n"));
    assert_eq!(document.settings.queue.as_deref(), Some("gpu"));
    assert_eq!(
        (document.tasks.pointer.as_str(), document.tasks.tasks.len()),
        ("/do", 0)
    );
    assert!(!document.loose);
}

#[test]
fn json_is_yaml() {
    let yaml = "do:\n- a: { set: { x: '${ .y }', z: [1, 2.5, null, true, \"😀\"] } }\n";
    let json = "{\"document\": {\"dsl\": \"1.0.3\", \"namespace\": \"test\", \"name\": \"test\", \"version\": \
                \"1.0.0\"},\n\t\"do\": [{\"a\": {\"set\": {\"x\": \"${ .y }\", \"z\": [1, 2.5, null, true, \
                \"\\ud83d\\ude00\"]}}}]}";
    let (yaml, json) = (
        document(yaml).source.clone(),
        parse(json).unwrap().document.source.clone(),
    );
    assert_eq!(value::to_json_string(&yaml), value::to_json_string(&json));
}

#[test]
fn scalars_follow_yaml_1_2() {
    let task = task(
        "    set: { a: yes, b: on, c: 0x1F, d: 0o17, e: 012, f: 1e3, g: ~, h: '1', i: 1_000, j: .5, k: -3, \
         l: 12345678901234567890123, m: 2026-01-01, n: +7 }\n",
    );
    assert_eq!(
        json(&kind!(task, Set)),
        "{a:\"yes\",b:\"on\",c:31,d:15,e:12,f:1000,g:null,h:\"1\",i:\"1_000\",\
         j:0.5,k:-3,l:12345678901234567890123,m:\"2026-01-01\",n:7}"
    );
}

#[test]
fn anchors_are_resolved() {
    let document =
        document("do:\n- a: &x { set: { v: 1 } }\n- b: *x\n- c: { set: { v: &y '${ .z }', w: *y } }\n");
    assert_eq!(json(&kind!(document.tasks.tasks[1].clone(), Set)), "{v:1}");
    assert_eq!(
        json(&kind!(document.tasks.tasks[2].clone(), Set)),
        "{v:<.z>,w:<.z>}"
    );
}

#[test]
fn pointers_and_places() {
    let document = document(
        "do:\n- a/b:\n    do:\n    - c~d:\n        fork:\n          branches:\n          - e: { set: { x: 1 } }\n- t:\n    \
         try: [ { f: { set: { x: 1 } } } ]\n    catch: { do: [ { g: { set: { x: 1 } } } ] }\n- l:\n    for: { in: .x }\n    \
         do: [ { h: { set: { x: 1 } } } ]\n",
    );
    let tasks = &document.tasks.tasks;
    assert_eq!(
        (tasks[0].pointer.as_str(), tasks[0].span),
        ("/do/0/a~1b", Span { line: 3, column: 3 })
    );
    let inner = kind!(tasks[0].clone(), Do);
    assert_eq!(
        (inner.pointer.as_str(), inner.tasks[0].pointer.as_str()),
        ("/do/0/a~1b/do", "/do/0/a~1b/do/0/c~0d")
    );
    let fork = kind!(inner.tasks[0].clone(), Fork);
    assert_eq!(fork.branches[0].pointer, "/do/0/a~1b/do/0/c~0d/fork/branches/0/e");
    let attempt = kind!(tasks[1].clone(), Try);
    assert_eq!(attempt.body.tasks[0].pointer, "/do/1/t/try/0/f");
    assert_eq!(
        attempt.catch.handler.unwrap().tasks[0].pointer,
        "/do/1/t/catch/do/0/g"
    );
    assert_eq!(
        kind!(tasks[2].clone(), For).body.tasks[0].pointer,
        "/do/2/l/do/0/h"
    );
}

#[test]
fn common_properties() {
    let task = task(
        "    if: .go\n    input: { from: '${ .in }', schema: { document: { type: object } } }\n    output: { as: { v: '${ .out }' } }\n    \
         export: { as: $context + . }\n    timeout: { after: PT1M }\n    then: end\n    metadata: { note: x, millrace: { queue: slow } }\n    \
         set: { x: 1 }\n",
    );
    assert_eq!(source(task.condition.as_ref().unwrap()), ".go");
    assert_eq!(json(task.input.from.as_ref().unwrap()), "<.in>");
    assert!(task.input.schema.is_some());
    assert_eq!(json(task.output.transform.as_ref().unwrap()), "{v:<.out>}");
    assert_eq!(json(task.export.transform.as_ref().unwrap()), "<$context + .>");
    assert_eq!(ms(&task.timeout.unwrap().after), 60_000);
    assert_eq!(task.then, Some(Flow::End));
    assert_eq!(task.settings.queue.as_deref(), Some("slow"));
    assert_eq!(
        value::get(&task.source, "then").and_then(value::as_str),
        Some("end")
    );
}

#[test]
fn workflow_ends_and_timeout() {
    let document = document(
        "input: { from: .order, schema: { format: json, document: { type: object } } }\noutput: { as: '$context' }\n\
         timeout: short\nuse: { timeouts: { short: { after: { hours: 1, minutes: 1 } } } }\ndo: []\n",
    );
    assert_eq!(json(document.input.from.as_ref().unwrap()), "<.order>");
    assert!(document.input.schema.is_some());
    assert_eq!(json(document.output.transform.as_ref().unwrap()), "<$context>");
    assert_eq!(ms(&document.timeout.as_ref().unwrap().after), 3_660_000);
}

#[test]
fn set_is_an_object_or_an_expression() {
    assert_eq!(json(&kind!(task("    set: '${ .a }'\n"), Set)), "<.a>");
    assert_eq!(
        json(&kind!(
            task("    set: { a: { b: [ '${ .c }', 1 ] }, d: 2 }\n"),
            Set
        )),
        "{a:{b:[<.c>,1]},d:2}"
    );
    assert_eq!(
        json(&kind!(task("    set: { '${ .key }': 1 }\n"), Set)),
        "{${ .key }:1}"
    );
}

#[test]
fn switch_resolves_its_targets() {
    let document = document(
        "do:\n- a:\n    switch:\n    - one: { when: '${ .x }', then: c }\n    - two: { when: .y, then: exit }\n    - three: { then: continue }\n\
         - b: { set: { x: 1 }, then: a }\n- c: { set: { x: 1 } }\n",
    );
    let cases = kind!(document.tasks.tasks[0].clone(), Switch);
    assert_eq!(
        cases.iter().map(|c| c.then).collect::<Vec<_>>(),
        [Flow::Task(2), Flow::Exit, Flow::Continue]
    );
    assert_eq!(source(cases[0].when.as_ref().unwrap()), ".x");
    assert!(cases[2].when.is_none());
    assert_eq!(document.tasks.tasks[1].then, Some(Flow::Task(0)));
}

#[test]
fn for_has_default_names() {
    let each = kind!(
        task("    for: { in: .pets }\n    do: [ { x: { set: { v: '${ $item + $index }' } } } ]\n"),
        For
    );
    assert_eq!((each.each.as_str(), each.at.as_str()), ("item", "index"));
    assert_eq!(json(&each.items), "<.pets>");
    assert!(each.condition.is_none());
}

#[test]
fn for_with_names_and_a_condition() {
    let each = kind!(
        task("    for: { each: pet, at: n, in: '${ .pets }' }\n    while: $pet.ok and $n < 3\n    do: []\n"),
        For
    );
    assert_eq!((each.each.as_str(), each.at.as_str()), ("pet", "n"));
    assert_eq!(source(each.condition.as_ref().unwrap()), "$pet.ok and $n < 3");
}

#[test]
fn for_over_an_inline_list() {
    let each = kind!(
        task("    for: { in: [ { a: '${ .b }' }, { a: 1 } ] }\n    do: []\n"),
        For
    );
    assert_eq!(json(&each.items), "[{a:<.b>},{a:1}]");
}

#[test]
fn loop_variables_reach_nested_lists() {
    document(
        "do:\n- a:\n    for: { each: x, in: .a }\n    do:\n    - b:\n        for: { each: y, at: j, in: $x.b }\n        do:\n        \
         - c: { if: $x == $y, set: { v: '${ [$x, $y, $index, $j] }' }, output: { as: $y }, export: { as: $x } }\n",
    );
}

#[test]
fn fork_keeps_the_order() {
    let fork = kind!(
        task(
            "    fork:\n      compete: true\n      branches:\n      - b: { set: { x: 1 }, then: exit }\n      - a: { set: { x: 2 } }\n"
        ),
        Fork
    );
    assert!(fork.compete);
    assert_eq!(
        fork.branches.iter().map(|b| b.name.as_str()).collect::<Vec<_>>(),
        ["b", "a"]
    );
    assert!(
        !kind!(
            task("    fork: { branches: [ { a: { set: { x: 1 } } } ] }\n"),
            Fork
        )
        .compete
    );
}

#[test]
fn catch_may_be_empty() {
    let catch = catch("{}");
    assert_eq!(catch.variable, "error");
    assert!(catch.retry.is_none() && catch.handler.is_none() && catch.then.is_none());
    assert!(catch.filter.kind.is_none() && catch.filter.status.is_none());
}

#[test]
fn catch_with_everything() {
    let catch = catch(
        "{ errors: { with: { type: t, status: 503, instance: /do/0, title: x, detail: d } }, as: err, when: $err.ok, \
         exceptWhen: '${ $err.no }', do: [ { y: { set: { e: '${ $err }' } } } ], then: end }",
    );
    assert_eq!(catch.filter.kind.as_deref(), Some("t"));
    assert_eq!(
        (catch.filter.status, catch.filter.detail.as_deref()),
        (Some(503), Some("d"))
    );
    assert_eq!(
        (catch.filter.instance.as_deref(), catch.filter.title.as_deref()),
        (Some("/do/0"), Some("x"))
    );
    assert_eq!(catch.variable, "err");
    assert_eq!(source(catch.when.as_ref().unwrap()), "$err.ok");
    assert_eq!(source(catch.except_when.as_ref().unwrap()), "$err.no");
    assert_eq!(catch.handler.unwrap().tasks.len(), 1);
    assert_eq!(catch.then, Some(Flow::End));
}

#[test]
fn details_is_an_old_name_of_detail() {
    assert_eq!(
        catch("{ errors: { with: { details: d } } }")
            .filter
            .detail
            .as_deref(),
        Some("d")
    );
}

#[test]
fn retry_inline() {
    let retry = catch(
        "{ retry: { when: $error.status == 503, exceptWhen: .x, delay: { seconds: 3 }, backoff: { exponential: { factor: 3, maxDelay: PT1M } }, \
         jitter: { from: PT0S, to: PT1S }, limit: { attempt: { count: 5, duration: PT10S }, duration: PT5M } } }",
    )
    .retry
    .unwrap();
    assert_eq!(source(retry.when.as_ref().unwrap()), "$error.status == 503");
    assert_eq!(ms(retry.delay.as_ref().unwrap()), 3_000);
    let Backoff::Exponential { factor, max_delay } = retry.backoff else {
        panic!("{:?}", retry.backoff)
    };
    assert_eq!((factor, max_delay), (3.0, Some(Duration(60_000))));
    let (from, to) = retry.jitter.as_ref().unwrap();
    assert_eq!((ms(from), ms(to)), (0, 1_000));
    assert_eq!(
        (retry.count, ms(retry.attempt_timeout.as_ref().unwrap())),
        (Some(5), 10_000)
    );
    assert_eq!(ms(retry.total.as_ref().unwrap()), 300_000);
}

#[test]
fn retry_by_name_uses_the_variable_of_the_catch() {
    let document = document(
        "use: { retries: { r: { when: $oops.ok, backoff: { linear: {} }, limit: { attempt: { count: 1 } } } } }\ndo:\n- t:\n    \
         try: []\n    catch: { as: oops, retry: r }\n",
    );
    let retry = kind!(document.tasks.tasks[0].clone(), Try).catch.retry.unwrap();
    assert_eq!(retry.when.as_ref().unwrap().variables(), ["oops"]);
    assert!(matches!(retry.backoff, Backoff::Linear));
}

#[test]
fn constant_backoff_is_the_default() {
    let retry = catch("{ retry: { delay: '${ .d }', limit: { duration: PT1M } } }")
        .retry
        .unwrap();
    assert!(matches!(retry.backoff, Backoff::Constant));
    assert!(matches!(retry.delay, Some(DurationValue::Computed(_))));
    assert!(warnings("do:\n- t: { try: [ { a: { set: { x: 1 } } } ], catch: { retry: { backoff: { constant: {} } } } }\n")[0]
        .contains("no limit"));
}

#[test]
fn raise_inline_and_by_name() {
    let raise = kind!(
        task(
            "    raise: { error: { type: 'https://x.y/z', status: 404, title: '${ .t }', detail: d, instance: /a } }\n"
        ),
        Raise
    );
    assert_eq!(
        (json(&raise.kind).as_str(), raise.status),
        ("\"https://x.y/z\"", 404)
    );
    assert_eq!(raise.title.as_ref().map(json).as_deref(), Some("<.t>"));
    let document = document(
        "use: { errors: { e: { type: '${ .type }', status: 400, detail: '${ $item }' } } }\ndo:\n- l:\n    for: { in: .x }\n    \
         do: [ { t: { raise: { error: e } } } ]\n",
    );
    let body = kind!(document.tasks.tasks[0].clone(), For).body;
    let raise = kind!(body.tasks[0].clone(), Raise);
    assert_eq!(json(&raise.kind), "<.type>");
    assert_eq!(raise.detail.as_ref().map(json).as_deref(), Some("<$item>"));
}

#[test]
fn emit_keeps_all_attributes() {
    let emit = kind!(
        task(
            "    emit: { event: { with: { source: 'https://x.y', type: a.b, data: { v: '${ .v }' }, level: 5, flag: true } } }\n"
        ),
        Emit
    );
    assert_eq!(
        json(&emit.with),
        "{source:\"https://x.y\",type:\"a.b\",data:{v:<.v>},level:5,flag:true}"
    );
    assert!(pending("do:\n- t: { emit: { event: { with: { type: x } } } }\n").is_empty());
}

#[test]
fn wait_in_every_form() {
    assert_eq!(ms(&kind!(task("    wait: PT1.5S\n"), Wait)), 1_500);
    assert_eq!(
        ms(&kind!(task("    wait: { days: 1, milliseconds: 5 }\n"), Wait)),
        86_400_005
    );
    assert!(matches!(
        kind!(task("    wait: '${ .delay }'\n"), Wait),
        DurationValue::Computed(_)
    ));
}

#[test]
fn http_short_and_long() {
    let call = http("{ method: get, endpoint: 'https://x.y/{id}' }");
    assert_eq!(json(&call.method), "\"GET\"");
    assert!(matches!(&call.endpoint.uri, UriValue::Template(t) if t.source() == "https://x.y/{id}"));
    assert!(call.endpoint.authentication.is_none() && call.headers.is_none() && call.body.is_none());
    assert_eq!((call.output, call.redirect), (HttpOutput::Content, false));
    let call = http(
        "{ method: '${ .m }', endpoint: { uri: '${ .u }' }, headers: '${ .h }', query: { q: '${ .q }', r: s }, body: [ '${ . }' ], \
         output: response, redirect: true }",
    );
    assert_eq!(json(&call.method), "<.m>");
    assert!(matches!(&call.endpoint.uri, UriValue::Computed(e) if source(e) == ".u"));
    assert_eq!(json(call.headers.as_ref().unwrap()), "<.h>");
    assert_eq!(json(call.query.as_ref().unwrap()), "{q:<.q>,r:\"s\"}");
    assert_eq!(json(call.body.as_ref().unwrap()), "[<.>]");
    assert_eq!((call.output, call.redirect), (HttpOutput::Response, true));
}

#[test]
fn authentication_inline() {
    let policy = |a: &str| {
        let call = http(&format!(
            "{{ method: get, endpoint: {{ uri: 'https://x.y', authentication: {a} }} }}"
        ));
        call.endpoint.authentication.unwrap()
    };
    let Authentication::Basic { username, password } =
        policy("{ basic: { username: u, password: '${ .p }' } }")
    else {
        panic!()
    };
    assert_eq!(
        (json(&username).as_str(), json(&password).as_str()),
        ("\"u\"", "<.p>")
    );
    let Authentication::Bearer { token } = policy("{ bearer: { token: '${ .t }' } }") else {
        panic!()
    };
    assert_eq!(json(&token), "<.t>");
    assert!(matches!(
        policy("{ digest: { username: u, password: p } }"),
        Authentication::Digest { .. }
    ));
    let oauth = "{ oauth2: { authority: 'https://x.y', grant: client_credentials, client: { id: a }, scopes: [ b ], endpoints: { token: /t } } }";
    assert!(matches!(policy(oauth), Authentication::OAuth2(_)));
    assert!(matches!(
        policy("{ oidc: { authority: 'https://x.y', grant: password } }"),
        Authentication::Oidc(_)
    ));
}

#[test]
fn authentication_by_name_and_secret() {
    let document = document(
        "use:\n  secrets: [ s ]\n  authentications:\n    a: { basic: { use: s } }\ndo:\n- t:\n    call: http\n    with: { method: get, endpoint: \
         { uri: 'https://x.y', authentication: { use: a } } }\n",
    );
    let Call::Http(call) = *kind!(document.tasks.tasks[0].clone(), Call) else {
        panic!()
    };
    let Some(Authentication::Secret { scheme, secret }) = call.endpoint.authentication else {
        panic!()
    };
    assert_eq!((scheme.as_str(), secret.as_str()), ("basic", "s"));
    assert_eq!(document.uses.secrets, ["s"]);
}

#[test]
fn functions_of_the_fleet() {
    let call = call("    call: img-resize:1.4.0@default\n    with: { url: '${ .url }', width: 128 }\n");
    let Call::Function(FunctionCall {
        target: FunctionTarget::Fleet(name),
        arguments,
    }) = call
    else {
        panic!("{call:?}")
    };
    assert_eq!(name, "img-resize:1.4.0");
    assert_eq!(json(&arguments.unwrap()), "{url:<.url>,width:128}");
}

#[test]
fn functions_inline() {
    let document = document(
        "use:\n  functions:\n    outer: { call: inner, with: { a: '${ .b }' } }\n    inner: { set: { x: '${ $input }' }, metadata: { millrace: { queue: q } } }\n\
         do:\n- t: { call: outer }\n- u: { call: inner }\n",
    );
    let target = |index: usize| {
        let Call::Function(call) = *kind!(document.tasks.tasks[index].clone(), Call) else {
            panic!()
        };
        let FunctionTarget::Inline(task) = call.target else {
            panic!()
        };
        task
    };
    let (outer, inner) = (target(0), target(1));
    assert_eq!(
        (outer.pointer.as_str(), outer.name.as_str()),
        ("/use/functions/outer", "outer")
    );
    assert_eq!(
        (inner.pointer.as_str(), inner.settings.queue.as_deref()),
        ("/use/functions/inner", Some("q"))
    );
    let TaskKind::Call(call) = &outer.kind else {
        panic!()
    };
    assert!(
        matches!(&**call, Call::Function(FunctionCall { target: FunctionTarget::Inline(t), .. }) if Arc::ptr_eq(t, &inner))
    );
}

#[test]
fn functions_of_catalogs_and_urls() {
    let document = document(
        "use: { catalogs: { default: { endpoint: 'https://x.y' }, other: { endpoint: { uri: 'https://x.y' } } } }\ndo:\n\
         - a: { call: 'f:1.0.0@default' }\n- b: { call: 'f:1.0.0@other' }\n- c: { call: 'https://x.y/function.yaml' }\n",
    );
    let target = |index: usize| match *kind!(document.tasks.tasks[index].clone(), Call) {
        Call::Function(call) => call.target,
        other => panic!("{other:?}"),
    };
    let cataloged = "https://x.y/functions/f/1.0.0/function.yaml";
    for (index, expected) in [cataloged, cataloged, "https://x.y/function.yaml"]
        .into_iter()
        .enumerate()
    {
        assert!(
            matches!(target(index), FunctionTarget::Missing(url) if url == expected),
            "{index}"
        );
    }
    assert_eq!(document.uses.catalogs.len(), 2);
}

#[test]
fn other_calls_are_templates() {
    let openapi = call(
        "    call: openapi\n    with: { document: { endpoint: 'https://x.y' }, operationId: f, parameters: { a: '${ .a }' }, output: raw }\n",
    );
    let Call::OpenApi(with) = openapi else {
        panic!("{openapi:?}")
    };
    assert_eq!(
        json(&with),
        "{document:{endpoint:\"https://x.y\"},operationId:\"f\",parameters:{a:<.a>},output:\"raw\"}"
    );
    let grpc = "    call: grpc\n    with: { proto: { endpoint: 'file://x' }, service: { name: s, host: h, port: 1 }, method: m, arguments: { a: 1 } }\n";
    assert!(matches!(call(grpc), Call::Grpc(_)));
    let mcp = "    call: mcp\n    with: { method: tools/call, transport: { stdio: { command: npx } }, parameters: '${ .p }', timeout: PT5S }\n";
    assert!(matches!(call(mcp), Call::Mcp(_)));
    let a2a =
        "    call: a2a\n    with: { method: message/send, server: 'https://x.y', parameters: { a: 1 } }\n";
    assert!(matches!(call(a2a), Call::A2a(_)));
}

#[test]
fn references_in_templates_are_resolved() {
    let document = document(
        "use: { authentications: { a: { bearer: { token: '${ .t }' } } } }\ndo:\n- t:\n    call: openapi\n    with:\n      \
         document: { endpoint: { uri: 'https://x.y', authentication: { use: a } } }\n      operationId: f\n      authentication: { use: a }\n",
    );
    let Call::OpenApi(with) = *kind!(document.tasks.tasks[0].clone(), Call) else {
        panic!()
    };
    assert_eq!(
        json(&with),
        "{document:{endpoint:{uri:\"https://x.y\",authentication:{bearer:{token:<.t>}}}},operationId:\"f\",\
         authentication:{bearer:{token:<.t>}}}"
    );
}

#[test]
fn asyncapi_with_a_subscription() {
    let call = call(
        "    call: asyncapi\n    with:\n      document: { endpoint: 'https://x.y' }\n      channel: /c\n      subscription:\n        filter: .ok\n        \
         consume: { amount: 3, for: PT1M }\n        foreach: { item: m, do: [ { x: { set: { v: '${ $m }' } } } ] }\n",
    );
    let Call::AsyncApi(call) = call else {
        panic!("{call:?}")
    };
    let foreach = call.foreach.unwrap();
    assert_eq!((foreach.item.as_str(), foreach.at.as_str()), ("m", "index"));
    assert_eq!(
        foreach.body.unwrap().tasks[0].pointer,
        "/do/0/t/with/subscription/foreach/do/0/x"
    );
    let filter = "filter:{expression:\".ok\",variables:{}}";
    assert!(json(&call.with).contains(&format!(
        "subscription:{{{filter},consume:{{amount:3,for:\"PT1M\"}}}}"
    )));
}

#[test]
fn expressions_about_messages_are_left_to_the_worker() {
    let subscribe = |consume: &str| {
        format!(
            "    call: asyncapi\n    with:\n      document: {{ endpoint: 'https://x.y' }}\n      channel: /c\n      \
             subscription: {{ filter: '${{ .n == $input.n }}', consume: {{ {consume} }} }}\n"
        )
    };
    let Call::AsyncApi(call) = call(&subscribe("while: 'length < $context.max and $input.go'")) else {
        panic!()
    };
    let with = json(&call.with);
    assert!(
        with.contains("filter:{expression:\" .n == $input.n \",variables:{input:<$input>}}"),
        "{with}"
    );
    assert!(
        with.contains("while:{expression:\"length < $context.max and $input.go\",variables:{context:<$context>,input:<$input>}}"),
        "{with}"
    );
}

#[test]
fn run_a_workflow() {
    let run = *kind!(
        task(
            "    run: { workflow: { namespace: a, name: b, version: latest, input: { x: '${ .y }' } }, await: false }\n"
        ),
        Run
    );
    assert!(!run.awaited);
    let Process::Workflow {
        namespace,
        name,
        version,
        input,
    } = run.process
    else {
        panic!()
    };
    assert_eq!(
        (namespace.as_str(), name.as_str(), version.as_str()),
        ("a", "b", "latest")
    );
    assert_eq!(json(&input.unwrap()), "{x:<.y>}");
}

#[test]
fn run_processes() {
    let run = |body: &str| *kind!(task(&format!("    run: {body}\n")), Run);
    let container = run(
        "{ container: { image: x, ports: { 80: 8080 }, volumes: { /a: /b }, environment: { A: '${ .a }', N: 1 }, stdin: '${ . }', arguments: [ a ], \
         lifetime: { cleanup: eventually, after: PT1M }, pullPolicy: always }, return: all }",
    );
    assert_eq!((container.output, container.awaited), (ProcessOutput::All, true));
    let Process::Container(with) = container.process else {
        panic!()
    };
    assert!(json(&with).contains("ports:{80:8080}"), "{}", json(&with));
    let script = run(
        "{ script: { language: js, code: 'console.log(`${x}`)', arguments: [ '${ .a }' ] }, return: none }",
    );
    assert!(matches!(script.process, Process::Script(_)));
    let shell = run("{ shell: { command: 'echo ${HOME}', environment: { A: b } }, return: code }");
    assert!(matches!(
        (shell.process, shell.output),
        (Process::Shell(_), ProcessOutput::Code)
    ));
    assert!(warnings("do:\n- t: { run: { shell: { command: 'echo ${HOME}' } } }\n").is_empty());
}

#[test]
fn listen_strategies() {
    let one = listen(
        "    listen: { to: { one: { with: { type: x, data: '${ .ok }' }, correlate: { k: { from: .id, expect: '${ .want }' } } } } }\n",
    );
    let Consumption::One(filter) = one.to else {
        panic!()
    };
    assert_eq!(
        filter
            .with
            .iter()
            .map(|(k, t)| format!("{k}={}", json(t)))
            .collect::<Vec<_>>(),
        ["type=\"x\"", "data=<.ok>"]
    );
    assert_eq!(
        (
            filter.correlate[0].name.as_str(),
            source(&filter.correlate[0].from)
        ),
        ("k", ".id")
    );
    assert_eq!(one.read, EventRead::Data);
    let all = listen(
        "    listen: { to: { all: [ { with: { type: x } }, { with: { type: y } } ] }, read: envelope }\n",
    );
    assert!(
        matches!((&all.to, all.read), (Consumption::All(filters), EventRead::Envelope) if filters.len() == 2)
    );
    let any = listen("    listen: { to: { any: [], until: '( . | length ) > 3' } }\n");
    assert!(
        matches!(any.to, Consumption::Any { until: Some(Until::Condition(_)), filters } if filters.is_empty())
    );
    let until = listen("    listen: { to: { any: [], until: { one: { with: { type: x } } } } }\n");
    assert!(matches!(
        until.to,
        Consumption::Any {
            until: Some(Until::Consumed(_)),
            ..
        }
    ));
}

#[test]
fn listen_foreach() {
    let listen = listen(
        "    listen: { to: { any: [] } }\n    foreach: { item: e, at: i, do: [ { x: { set: { v: '${ [$e, $i] }' } } } ], output: { as: $e }, export: { as: $i } }\n",
    );
    let foreach = listen.foreach.unwrap();
    assert_eq!((foreach.item.as_str(), foreach.at.as_str()), ("e", "i"));
    assert_eq!(foreach.body.unwrap().tasks[0].pointer, "/do/0/t/foreach/do/0/x");
    assert_eq!(json(&foreach.output.transform.unwrap()), "<$e>");
}

#[test]
fn schedules() {
    let schedule = |body: &str| {
        document(&format!("schedule: {body}\ndo: []\n"))
            .schedule
            .clone()
            .unwrap()
    };
    assert_eq!(
        schedule("{ cron: '0 0 * * *' }").cron.as_deref(),
        Some("0 0 * * *")
    );
    assert_eq!(
        schedule("{ cron: '*/5 0 0 * * MON' }").cron.as_deref(),
        Some("*/5 0 0 * * MON")
    );
    assert_eq!(
        ms(&schedule("{ every: PT5M, after: { seconds: 1 } }").every.unwrap()),
        300_000
    );
    let on = schedule("{ on: { one: { with: { type: x } } }, read: raw }");
    assert!(matches!(
        (on.on, on.read),
        (Some(Consumption::One(_)), Some(EventRead::Raw))
    ));
}

#[test]
fn settings_of_schedules() {
    let source = |settings: &str| {
        let head = HEAD.replace(
            " }\n",
            &format!(", metadata: {{ millrace: {{ schedule: {settings} }} }} }}\n"),
        );
        let parsed = parse(&format!("{head}schedule: {{ cron: '0 9 * * *' }}\ndo: []\n")).unwrap();
        parsed.document.schedule.clone().unwrap().settings
    };
    let full = source(
        "{ timezone: Europe/Vienna, overlap: cancelRunning, catchUp: all, catchUpMax: 7, input: { a: [1] } }",
    );
    assert_eq!(full.timezone.as_deref(), Some("Europe/Vienna"));
    assert_eq!(
        (full.overlap, full.catch_up),
        (Overlap::CancelRunning, CatchUp::All)
    );
    assert_eq!(full.catch_up_max, Some(7));
    assert_eq!(full.input.unwrap().text(), r#"{"a":[1]}"#);
    let none = source("{}");
    assert_eq!((none.overlap, none.catch_up), (Overlap::Allow, CatchUp::None));
    assert_eq!((none.timezone, none.input, none.catch_up_max), (None, None, None));
}

#[test]
fn extensions() {
    let document = document(
        "use:\n  extensions:\n  - log: { extend: all, when: '$task.name == \"x\"', before: [ { a: { set: { x: 1 } } } ], after: [] }\ndo: []\n",
    );
    let extension = &document.uses.extensions[0];
    assert_eq!(
        (extension.name.as_str(), extension.extend.as_str()),
        ("log", "all")
    );
    assert_eq!(
        extension.before.as_ref().unwrap().tasks[0].pointer,
        "/use/extensions/0/log/before/0/a"
    );
    assert!(extension.when.is_some() && extension.after.is_some());
}

#[test]
fn block_scalars_are_expressions_too() {
    let task = task(
        "    set:\n      x: |-\n        ${\n          .a +\n          1\n        }\n      y: >\n        ${ .a\n        + 1 }\n",
    );
    assert_eq!(json(&kind!(task, Set)), "{x:<.a +\n  1>,y:<.a + 1>}");
}

#[test]
fn what_is_not_executed_yet() {
    let source = "schedule: { every: '${ \"PT1M\" }', on: { one: { with: { type: x } } } }
evaluate: { mode: loose }
use:
  secrets: [ s ]
  extensions: [ { x: { extend: all, before: [] } } ]
  catalogs: { c: { endpoint: 'https://x.y' } }
do:
- b: { set: { x: 1 } }
- d: { call: 'f:1.0.0@c' }
- e: { call: 'https://x.y/f.yaml' }
- h: { set: { x: 1 }, input: { schema: { resource: { endpoint: 'https://x.y' } } } }
- k: { call: asyncapi, with: { document: { endpoint: 'https://x.y' }, channel: c, subscription: { consume: { amount: 1 }, foreach: {} } } }
";
    assert_eq!(
        pending(source),
        [
            "2:20 an expression in `schedule` is not supported yet",
            "2:35 `schedule.on` is not supported yet",
            "13:123 `foreach` of an AsyncAPI subscription is not supported yet",
        ]
    );
}

#[test]
fn what_is_executed() {
    let source = "schedule: { every: PT5M, cron: '0 9 * * MON', after: PT1S }
use:
  secrets: [ s ]
  functions: { f: { set: { x: 1 } } }
  retries: { r: { delay: PT1S, limit: { attempt: { count: 1 } } } }
  errors: { e: { type: 'https://x.y', status: 400 } }
  timeouts: { t: { after: PT1S } }
  authentications: { a: { bearer: { token: x } } }
  extensions: [ { x: { extend: all, before: [ { x: { set: { y: 1 } } } ] } } ]
do:
- a: { do: [ { x: { set: { y: 1 } } } ], timeout: t }
- b: { switch: [ { x: { then: continue } } ] }
- c: { for: { in: .x }, do: [] }
- d: { fork: { branches: [ { x: { wait: PT1S } } ] } }
- e: { try: [ { x: { raise: { error: e } } } ], catch: { retry: r } }
- f: { call: http, with: { method: get, endpoint: { uri: 'https://x.y', authentication: { use: a } } } }
- g: { call: f }
- h: { call: 'f:1.0.0@default' }
- i: { run: { workflow: { namespace: a, name: b, version: 1.0.0 } } }
- j: { emit: { event: { with: { type: x } } } }
- c2: { call: openapi, with: { document: { endpoint: 'https://x.y' }, operationId: f } }
- k: { call: http, with: { method: get, endpoint: 'https://x.y', headers: { x: '${ $secrets.s }' } } }
- l: { call: http, with: { method: get, endpoint: { uri: 'https://x.y', authentication: { digest: { use: s } } } } }
- m: { call: http, with: { method: get, endpoint: { uri: 'https://x.y', authentication: { oauth2: { use: s } } } } }
- n: { call: http, with: { method: get, endpoint: { uri: 'https://x.y', authentication: { oidc: { use: s } } } } }
- rk: { call: grpc, with: { proto: { endpoint: 'file://x' }, service: { name: s, host: h }, method: m } }
- rl: { call: mcp, with: { method: tools/list, transport: { http: { endpoint: 'https://x.y' } } } }
- rm: { call: a2a, with: { method: tasks/get, server: 'https://x.y', parameters: { id: a } } }
- rn: { call: asyncapi, with: { document: { endpoint: 'https://x.y' }, operation: o, message: { payload: { a: 1 } } } }
- ro: { call: asyncapi, with: { document: { endpoint: 'https://x.y' }, channel: c, subscription: { consume: { until: .a } } } }
- oo: { listen: { to: { any: [ { with: { type: x } } ], until: .x } }, foreach: { do: [] } }
- o: { run: { shell: { command: ls } } }
- p: { run: { script: { language: js, code: '1' }, await: false } }
- q: { run: { container: { image: x } } }
";
    assert_eq!(pending(source), [""; 0]);
    assert_eq!(warnings(source), [""; 0]);
}

#[test]
fn calls_of_the_fleet_are_listed_with_their_places() {
    let source = "use:
  functions: { pay: { call: 'charge:1.0.0@default' }, local: { set: { x: 1 } } }
do:
- a: { call: pay }
- b: { call: 'ship:2.0.0@default' }
- c: { call: local }
- d: { call: http, with: { method: get, endpoint: 'https://x.y' } }
";
    let found = document(source);
    let mut found: Vec<_> = found
        .functions
        .iter()
        .map(|f| format!("{} {} {}:{}", f.function, f.pointer, f.span.line, f.span.column))
        .collect();
    found.sort();
    assert_eq!(
        found,
        [
            "charge:1.0.0 /use/functions/pay/call 3:29",
            "ship:2.0.0 /do/1/b/call 6:14"
        ]
    );
}

#[test]
fn ten_tasks_take_milliseconds() {
    let task = |i: usize| {
        format!(
            "- t{i}:\n    if: '.go == {i}'\n    set: {{ x: '${{ .a + {i} | tostring }}', y: '${{ $context.items | map(.n{i}) | add }}' }}\n    \
             export: {{ as: '$context + {{ t{i}: .x }}' }}\n"
        )
    };
    let source = format!("{HEAD}do:\n{}", (0..10).map(task).collect::<String>());
    let time = || {
        let started = std::time::Instant::now();
        parse(&source).unwrap();
        started.elapsed()
    };
    let best = (0..20).map(|_| time()).min().unwrap();
    assert!(best.as_millis() < 5, "{best:?}");
}

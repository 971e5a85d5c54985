//! What several test files need.
#![allow(dead_code, unreachable_pub)]

use std::path::PathBuf;

use millrace_dsl::Diagnostic;
use serde_json::{Value, json};

/// The specification: `MILLRACE_SHARED`, or `../shared` beside the repository.
pub fn specification() -> Option<PathBuf> {
    let shared = std::env::var_os("MILLRACE_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let spec = shared.join("spec");
    if !spec.is_dir() {
        // Past the capture of libtest: `tools/test` counts these lines.
        let text = format!("skipped test: no specification at {}\n", spec.display());
        std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes()).unwrap();
        return None;
    }
    Some(spec)
}

/// Files of a directory with an extension, sorted.
pub fn files(directory: PathBuf, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files
}

/// All faults, one a line.
pub fn show(faults: &[Diagnostic]) -> String {
    let line = |f: &Diagnostic| {
        format!(
            "  {f} [{}] {}\n",
            f.pointer,
            f.hint.as_deref().unwrap_or_default()
        )
    };
    faults.iter().map(line).collect()
}

/// The fenced blocks of a text that open with `fence` and hold a definition, without their indentation.
pub fn blocks(text: &str, fence: &str, close: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != fence {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let body: Vec<&str> = lines.by_ref().take_while(|l| l.trim() != close).collect();
        let body: String = body
            .iter()
            .map(|l| format!("{}\n", l.get(indent..).unwrap_or_default()))
            .collect();
        if body.starts_with("document:") {
            found.push(body);
        }
    }
    found
}

/// A definition that uses most of the language.
pub const SAMPLE: &str = include_str!("sample.yaml");

/// SplitMix64: the same numbers in every run.
pub struct Random(pub u64);

impl Random {
    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n.max(1) as u64).unwrap()
    }

    pub fn pick<'t, T>(&mut self, all: &'t [T]) -> &'t T {
        &all[self.below(all.len())]
    }
}

/// Changes one place of a document: a member is removed, renamed or added, or a value is replaced. Gives the JSON
/// Pointer of the place.
pub fn mutate(document: &mut Value, random: &mut Random) -> String {
    let mut left = random.below(count(document));
    let mut pointer = String::new();
    visit(document, &mut left, &mut pointer, &mut |value, pointer| {
        change(value, pointer, random)
    });
    pointer
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

type Run<'r> = &'r mut dyn FnMut(&mut Value, &mut String);

fn visit(value: &mut Value, left: &mut usize, pointer: &mut String, run: Run<'_>) -> bool {
    if *left == 0 {
        run(value, pointer);
        return true;
    }
    *left -= 1;
    let children: Vec<(String, &mut Value)> = match value {
        Value::Array(items) => items
            .iter_mut()
            .enumerate()
            .map(|(i, v)| (i.to_string(), v))
            .collect(),
        Value::Object(members) => members.iter_mut().map(|(k, v)| (k.clone(), v)).collect(),
        _ => Vec::new(),
    };
    for (key, child) in children {
        let length = pointer.len();
        *pointer += &format!("/{key}");
        if visit(child, left, pointer, run) {
            return true;
        }
        pointer.truncate(length);
    }
    false
}

const KEYS: [&str; 24] = [
    "set", "call", "with", "do", "for", "then", "if", "input", "output", "export", "timeout", "metadata",
    "when", "catch", "retry", "use", "from", "as", "errors", "type", "status", "x", "after", "schema",
];

fn change(value: &mut Value, pointer: &mut String, random: &mut Random) {
    if let Value::Object(members) = value
        && !members.is_empty()
        && random.below(3) > 0
    {
        let keys: Vec<String> = members.keys().cloned().collect();
        let key = random.pick(&keys).clone();
        *pointer += &format!("/{key}");
        match random.below(4) {
            0 => _ = members.shift_remove(&key),
            1 => {
                let old = members.shift_remove(&key).unwrap_or_default();
                members.insert(format!("{key}s"), old);
            }
            2 => _ = members.insert((*random.pick(&KEYS)).to_owned(), scalar(random)),
            _ => _ = members.insert(key, scalar(random)),
        }
        return;
    }
    *value = scalar(random);
}

fn scalar(random: &mut Random) -> Value {
    let values = [
        json!(null),
        json!(true),
        json!(5),
        json!(-1),
        json!(1.5),
        json!(""),
        json!("x"),
        json!("${ .x }"),
        json!("end"),
        json!("PT5S"),
        json!([]),
        json!({}),
        json!([{}]),
        json!([1]),
        json!({"x": 1}),
        json!([{"a": {"set": {"b": 1}}}]),
    ];
    random.pick(&values).clone()
}

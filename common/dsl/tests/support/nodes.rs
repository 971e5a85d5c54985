//! All nodes of a document, and everything that can be done to one.

use serde_json::{Map, Value, json};

/// JSON Pointers of all nodes below the root.
pub(crate) fn pointers(document: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(document, &mut String::new(), &mut found);
    found
}

fn collect(value: &Value, pointer: &mut String, found: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(i, v)| (i.to_string(), v))
            .collect(),
        Value::Object(members) => members.iter().map(|(k, v)| (escaped(k), v)).collect(),
        _ => Vec::new(),
    };
    for (key, child) in children {
        let length = pointer.len();
        *pointer += &format!("/{key}");
        found.push(pointer.clone());
        collect(child, pointer, found);
        pointer.truncate(length);
    }
}

fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// What the schema can tell apart of a place: the keys on the way to it without names that authors choose, the keys beside
/// it, and its own type.
pub(crate) fn shape(document: &Value, pointer: &str) -> String {
    let mut at = document;
    let mut shape = String::new();
    let mut is_named = false;
    for raw in pointer.split('/').skip(1) {
        let key = raw.replace("~1", "/").replace("~0", "~");
        let siblings: Vec<&str> = at
            .as_object()
            .map(|o| o.keys().map(String::as_str).collect())
            .unwrap_or_default();
        shape += match (at, is_named) {
            (Value::Array(_), _) => "/*",
            (_, true) => "/name",
            _ => "/",
        };
        if at.is_object() && !is_named {
            shape += &format!("{key}({})", siblings.join(","));
        }
        is_named = at.is_array() && key.parse::<usize>().is_ok();
        at = at
            .get(&key)
            .or_else(|| at.get(key.parse::<usize>().ok()?))
            .expect("a place in the document");
    }
    shape + kind(at)
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// The document with the node deleted, duplicated, renamed, and of each other type.
pub(crate) fn every_change(document: &Value, pointer: &str) -> Vec<Value> {
    let (parent, last) = pointer.rsplit_once('/').expect("a node below the root");
    let last = last.replace("~1", "/").replace("~0", "~");
    let mut changed: Vec<Value> = ["delete", "duplicate", "rename"]
        .into_iter()
        .filter_map(|how| {
            let mut copy = document.clone();
            match copy.pointer_mut(parent)? {
                Value::Object(members) => change_member(members, &last, how),
                Value::Array(items) => change_item(items, last.parse().ok()?, how)?,
                _ => return None,
            }
            Some(copy)
        })
        .collect();
    let own = document.pointer(pointer).map(kind);
    let others = [
        json!(null),
        json!(true),
        json!(7),
        json!(-1.5),
        json!("text"),
        json!("${ .x }"),
        json!([]),
        json!(["text"]),
        json!({}),
        json!({ "key": "text" }),
    ];
    for other in others {
        if own == Some(kind(&other)) && other != json!("${ .x }") && other != json!([]) && other != json!({})
        {
            continue;
        }
        let mut copy = document.clone();
        if let Some(place) = copy.pointer_mut(pointer) {
            *place = other;
            changed.push(copy);
        }
    }
    changed
}

fn change_member(members: &mut Map<String, Value>, key: &str, how: &str) {
    let old = match how {
        "duplicate" => members.get(key).cloned(),
        _ => members.shift_remove(key),
    };
    match how {
        "delete" => {}
        _ => _ = members.insert(format!("{key}Copy"), old.unwrap_or_default()),
    }
}

/// An item has no name: `None` for a renaming.
fn change_item(items: &mut Vec<Value>, at: usize, how: &str) -> Option<()> {
    match how {
        "delete" => drop(items.remove(at)),
        "duplicate" => items.insert(at, items.get(at)?.clone()),
        _ => return None,
    }
    Some(())
}

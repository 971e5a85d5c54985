//! The description of the API, written by hand and compared with the router by a test.

use axum::http::header;
use axum::response::{IntoResponse, Response};

const DOCUMENT: &str = include_str!("openapi.json");

/// The document as text.
pub fn document() -> &'static str {
    DOCUMENT
}

pub(super) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::super::{Code, ROUTES};
    use super::*;

    fn document_value() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn every_route_is_documented_and_nothing_else() {
        let document = document_value();
        let documented: BTreeMap<_, BTreeSet<_>> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(path, item)| {
                (
                    path.as_str(),
                    item.as_object()
                        .unwrap()
                        .keys()
                        .map(String::as_str)
                        .filter(|k| *k != "parameters")
                        .collect(),
                )
            })
            .collect();
        let routed: BTreeMap<_, BTreeSet<_>> = ROUTES
            .iter()
            .map(|(path, methods)| (*path, methods.iter().copied().collect()))
            .collect();
        assert_eq!(documented, routed);
    }

    #[test]
    fn every_error_code_is_documented() {
        let document = document_value();
        let codes = document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]
            .as_array()
            .unwrap();
        let documented: BTreeSet<_> = codes.iter().map(|c| c.as_str().unwrap()).collect();
        assert_eq!(documented, Code::ALL.iter().map(|c| c.name()).collect());
    }

    #[test]
    fn every_reference_resolves() {
        fn check(node: &Value, document: &Value) {
            match node {
                Value::Object(members) => {
                    if let Some(Value::String(reference)) = members.get("$ref") {
                        assert!(
                            document.pointer(reference.trim_start_matches('#')).is_some(),
                            "{reference}"
                        );
                    }
                    members.values().for_each(|v| check(v, document));
                }
                Value::Array(items) => items.iter().for_each(|v| check(v, document)),
                _ => {}
            }
        }
        let document = document_value();
        check(&document, &document);
    }
}

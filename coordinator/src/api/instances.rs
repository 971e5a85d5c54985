//! `/instances`: reading.

use axum::Json;
use axum::extract::{Path, RawQuery, State};
use millrace_common::{InstanceKey, RawJson};
use millrace_engine::view::{Waiting, WaitingKind};
use millrace_engine::{InstanceView, Status};
use serde_json::{Value, json};

use super::ApiState;
use super::params::{Params, bad};
use super::problem::{ApiError, ApiResult, Code};
use crate::queries::{Cursor, Filter, HISTORY_LIMIT_MAX, HistoryPage, InstancePage, LIST_LIMIT_MAX};

/// Entries and instances in a page unless asked otherwise.
const LIMIT: usize = 100;
const NAMESPACE: &str = "default";

pub(super) async fn one(
    State(api): State<ApiState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> ApiResult<Json<InstanceView>> {
    let mut params = Params::new(query.as_deref());
    let namespace = params.one("namespace")?;
    params.end()?;
    // The usual case is one read.
    let first = key(namespace.as_deref().unwrap_or(NAMESPACE), &id)?;
    if let Some(view) = view(&api, &first).await? {
        return Ok(Json(view));
    }
    let found = locate(&api, &id, namespace.as_deref()).await?;
    view(&api, &found)
        .await?
        .map(Json)
        .ok_or_else(|| not_found(&found))
}

/// One instance with everything, and which of the functions it waits for nobody offers.
pub(super) async fn view(api: &ApiState, key: &InstanceKey) -> ApiResult<Option<InstanceView>> {
    let Some(mut view) = api.queries().instance(key).await? else {
        return Ok(None);
    };
    // A step that a worker was heard to run is offered.
    let is_open = |w: &&mut Waiting| w.kind == WaitingKind::Step && w.worker.is_none();
    let mut open = view.waiting_for.iter_mut().filter(is_open).peekable();
    if open.peek().is_none() {
        return Ok(Some(view));
    }
    let offers = api.roster().recent_offers().await?;
    for waiting in open {
        let function = waiting.function.as_deref().unwrap_or_default();
        if !offers.has(function) {
            waiting.reason = Some(offers.missing(function));
            waiting.offered = Some(false);
        }
    }
    Ok(Some(view))
}

pub(super) async fn list(
    State(api): State<ApiState>,
    RawQuery(query): RawQuery,
) -> ApiResult<Json<InstancePage>> {
    let mut params = Params::new(query.as_deref());
    let filter = filter(&mut params)?;
    let limit = limit(&mut params, LIST_LIMIT_MAX)?;
    let cursor = match params.one("cursor")? {
        None => None,
        Some(text) => {
            Some(Cursor::decode(&text).ok_or_else(|| bad("parameter `cursor` is not one that a list gave"))?)
        }
    };
    params.end()?;
    Ok(Json(api.queries().list(&filter, cursor, limit).await?))
}

pub(super) async fn history(
    State(api): State<ApiState>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> ApiResult<Json<HistoryPage>> {
    let mut params = Params::new(query.as_deref());
    let namespace = params.one("namespace")?;
    let after = params.parsed("after", "the number of an entry")?.unwrap_or(0);
    let limit = limit(&mut params, HISTORY_LIMIT_MAX)?;
    params.end()?;
    let first = key(namespace.as_deref().unwrap_or(NAMESPACE), &id)?;
    let page = api.queries().history(&first, after, limit).await?;
    if !page.entries.is_empty() {
        return Ok(Json(page));
    }
    let found = locate(&api, &id, namespace.as_deref()).await?;
    Ok(Json(api.queries().history(&found, after, limit).await?))
}

/// The instance meant by an id: in the namespace given, else in the default one, else in the only one that has it.
pub(super) async fn locate(api: &ApiState, id: &str, namespace: Option<&str>) -> ApiResult<InstanceKey> {
    let candidates = match namespace {
        Some(namespace) => vec![namespace.to_owned()],
        None => namespaces(api),
    };
    let wanted = key(namespace.unwrap_or(NAMESPACE), id)?;
    let mut found = api.queries().namespaces_of(id, &candidates).await?;
    match found.len() {
        0 if namespace.is_none() => Err(not_found_as(format!(
            "instance {id} does not exist in any namespace"
        ))),
        0 => Err(not_found(&wanted)),
        1 => Ok(found.remove(0)),
        _ if found.contains(&wanted) => Ok(wanted),
        _ => {
            let names: Vec<_> = found.iter().map(InstanceKey::namespace).collect();
            let detail = format!("instance {id} exists in several namespaces: {}", names.join(", "));
            Err(ApiError::new(Code::AmbiguousInstance, detail).hint("say which one with `?namespace=`"))
        }
    }
}

pub(super) fn key(namespace: &str, id: &str) -> ApiResult<InstanceKey> {
    InstanceKey::new(namespace, id).map_err(|e| bad(e.to_string()))
}

pub(super) fn not_found(key: &InstanceKey) -> ApiError {
    let detail = format!(
        "instance {} does not exist in namespace {}",
        key.id(),
        key.namespace()
    );
    not_found_as(detail)
}

fn not_found_as(detail: String) -> ApiError {
    ApiError::new(Code::InstanceNotFound, detail)
        .hint("ended instances are removed when their retention is over")
}

/// What is known of an instance whose start is in the log and not read yet.
pub(super) fn pending(
    key: &InstanceKey,
    definition: &millrace_common::DefinitionRef,
    input: &RawJson,
) -> Value {
    json!({
        "id": key.id(), "namespace": key.namespace(), "definition": definition,
        "status": Status::Pending, "input": input,
    })
}

fn namespaces(api: &ApiState) -> Vec<String> {
    let mut all: Vec<_> = api
        .registry
        .definitions
        .list()
        .into_iter()
        .map(|d| d.namespace)
        .collect();
    all.push(NAMESPACE.into());
    all.sort_unstable();
    all.dedup();
    all
}

fn limit(params: &mut Params, max: usize) -> ApiResult<usize> {
    match params.parsed::<usize>("limit", "a number")?.unwrap_or(LIMIT) {
        limit if (1..=max).contains(&limit) => Ok(limit),
        limit => Err(bad(format!("parameter `limit` is {limit}, expected 1 to {max}"))),
    }
}

/// `status=a,b` or repeated; `definition=[namespace/]name[@version]`; `label=key` or `label=key=value`, repeated.
fn filter(params: &mut Params) -> ApiResult<Filter> {
    let mut filter = Filter {
        namespace: params.one("namespace")?,
        ..Filter::default()
    };
    for text in params.all("status").iter().flat_map(|s| s.split(',')) {
        let status = Status::ALL.into_iter().find(|s| s.name() == text);
        filter.status.push(status.ok_or_else(|| unknown_status(text))?);
    }
    if let Some(text) = params.one("definition")? {
        let name = match text.split_once('/') {
            Some((namespace, rest)) => {
                filter.namespace = Some(namespace.into());
                rest
            }
            None => &text,
        };
        let (name, version) = name.split_once('@').map_or((name, None), |(n, v)| (n, Some(v)));
        (filter.definition, filter.version) = (Some(name.into()), version.map(Into::into));
    }
    for text in params.all("label") {
        let (key, value) = text
            .split_once('=')
            .map_or((text.as_str(), None), |(k, v)| (k, Some(v)));
        filter.labels.push((key.into(), value.map(Into::into)));
    }
    Ok(filter)
}

fn unknown_status(text: &str) -> ApiError {
    let all: Vec<_> = Status::ALL.iter().map(|s| s.name()).collect();
    bad(format!("status `{text}` is not one of {}", all.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_from_parameters() {
        let query = "status=running,waiting&definition=shop/order%401.0.0&label=tier%3Dgold&label=vip";
        let found = filter(&mut Params::new(Some(query))).unwrap();
        assert_eq!(found.status, [Status::Running, Status::Waiting]);
        assert_eq!(
            (found.namespace.as_deref(), found.definition.as_deref()),
            (Some("shop"), Some("order"))
        );
        assert_eq!(found.version.as_deref(), Some("1.0.0"));
        assert_eq!(
            found.labels,
            [("tier".into(), Some("gold".into())), ("vip".into(), None)]
        );
        assert!(filter(&mut Params::new(Some("status=done"))).is_err());
    }

    #[test]
    fn limits_are_bounded() {
        assert_eq!(limit(&mut Params::new(None), 500).unwrap(), LIMIT);
        assert_eq!(limit(&mut Params::new(Some("limit=500")), 500).unwrap(), 500);
        for bad in ["limit=0", "limit=501", "limit=x"] {
            assert!(limit(&mut Params::new(Some(bad)), 500).is_err(), "{bad}");
        }
    }
}

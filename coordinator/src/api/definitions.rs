//! `/definitions`: apply, validate, read.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use millrace_common::{DefinitionRef, limits};
use millrace_dsl::Diagnostic;
use millrace_dsl::model::FunctionUse;
use serde_json::{Value, json};

use super::params::{Params, bad};
use super::problem::{ApiError, ApiResult, Code};
use super::{ApiState, body, time};
use crate::registry::{ApplyError, DefinitionInfo, StoredDefinition};

/// Media types that a definition may come in. Both are read by the YAML parser, since JSON is YAML.
const MEDIA_TYPES: [&str; 5] = [
    "application/yaml",
    "application/x-yaml",
    "text/yaml",
    "application/json",
    "text/plain",
];

pub(super) async fn apply(State(api): State<ApiState>, headers: HeaderMap, body: Body) -> ApiResult {
    let text = source(&headers, body).await?;
    let applied = api
        .registry
        .definitions
        .apply(&text, time::now_ms())
        .await
        .map_err(refused)?;
    if applied.created {
        api.registry.hint().await;
    }
    let warnings = remarks(&api, applied.warnings, &applied.functions).await;
    let DefinitionRef {
        namespace,
        name,
        version,
    } = &applied.definition;
    let location = format!("/api/v1/definitions/{namespace}/{name}/{version}");
    let answer = json!({
        "namespace": namespace, "name": name, "version": version,
        "created": applied.created, "warnings": warnings,
    });
    let status = if applied.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, [(header::LOCATION, location)], Json(answer)).into_response())
}

pub(super) async fn validate(
    State(api): State<ApiState>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Json<Value>> {
    let text = source(&headers, body).await?;
    let valid = api.registry.definitions.validate(&text).await.map_err(invalid)?;
    let warnings = remarks(&api, valid.warnings, &valid.functions).await;
    Ok(Json(
        json!({"valid": true, "definition": valid.definition, "warnings": warnings}),
    ))
}

/// Adds what the fleet does not offer. The definition stands whether the fleet can be looked at or not.
async fn remarks(api: &ApiState, mut remarks: Vec<Diagnostic>, functions: &[FunctionUse]) -> Vec<Diagnostic> {
    if functions.is_empty() {
        return remarks;
    }
    match api.roster().offers().await {
        Ok(offers) => remarks.extend(offers.remarks(functions)),
        Err(error) => tracing::warn!(%error, "cannot look up which functions are offered"),
    }
    remarks
}

pub(super) async fn list(State(api): State<ApiState>, RawQuery(query): RawQuery) -> ApiResult<Json<Value>> {
    let mut params = Params::new(query.as_deref());
    let namespace = params.one("namespace")?;
    params.end()?;
    let mut items = api.registry.definitions.list();
    items.retain(|d| namespace.as_ref().is_none_or(|ns| *ns == d.namespace));
    Ok(Json(json!({"items": items})))
}

pub(super) async fn newest(
    State(api): State<ApiState>,
    Path((namespace, name)): Path<(String, String)>,
) -> ApiResult<Json<Value>> {
    let info = find(&api, &namespace, &name).await?;
    let newest = DefinitionRef {
        namespace,
        name,
        version: info.version.clone(),
    };
    let stored = stored(&api, &newest).await?;
    let mut answer = view(&newest, &stored);
    answer["versions"] = json!(info.versions);
    Ok(Json(answer))
}

pub(super) async fn version(
    State(api): State<ApiState>,
    Path((namespace, name, version)): Path<(String, String, String)>,
) -> ApiResult<Json<Value>> {
    if version == "latest" {
        return newest(State(api), Path((namespace, name))).await;
    }
    let definition = DefinitionRef {
        namespace,
        name,
        version,
    };
    let stored = stored(&api, &definition).await?;
    Ok(Json(view(&definition, &stored)))
}

/// A definition by name; looks into Redis once more when it is not known, since another coordinator may just have
/// stored it.
pub(super) async fn find(api: &ApiState, namespace: &str, name: &str) -> ApiResult<DefinitionInfo> {
    if let Some(info) = api.registry.definitions.get(namespace, name) {
        return Ok(info);
    }
    api.registry.definitions.refresh().await?;
    api.registry
        .definitions
        .get(namespace, name)
        .ok_or_else(|| not_found(&format!("{namespace}/{name}")))
}

pub(super) fn not_found(what: &str) -> ApiError {
    ApiError::new(
        Code::DefinitionNotFound,
        format!("definition {what} does not exist"),
    )
    .hint("`millrace definition list` shows all; `millrace apply FILE` adds one")
}

async fn stored(api: &ApiState, definition: &DefinitionRef) -> ApiResult<StoredDefinition> {
    let stored = api.registry.definitions.stored(definition).await?;
    stored.ok_or_else(|| not_found(&definition.to_string()))
}

fn view(definition: &DefinitionRef, stored: &StoredDefinition) -> Value {
    json!({
        "namespace": definition.namespace, "name": definition.name, "version": definition.version,
        "createdAt": time::rfc3339(stored.created_ms), "source": stored.source,
    })
}

async fn source(headers: &HeaderMap, body: Body) -> ApiResult<String> {
    let media_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or("application/yaml");
    let essence = media_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    if !MEDIA_TYPES.contains(&essence.as_str()) {
        let detail = format!(
            "content type `{media_type}` is not one of {}",
            MEDIA_TYPES.join(", ")
        );
        return Err(ApiError::new(Code::UnsupportedMediaType, detail));
    }
    let bytes = body::read("the definition", headers, body, limits::DEFINITION_BYTES_MAX).await?;
    String::from_utf8(bytes.into()).map_err(|e| bad(format!("the definition is not UTF-8: {e}")))
}

fn refused(error: ApplyError) -> ApiError {
    match error {
        ApplyError::Invalid(diagnostics) => invalid(diagnostics),
        ApplyError::Conflict(definition) => ApiError::new(
            Code::DefinitionConflict,
            format!("{definition} exists with other content"),
        )
        .hint("versions are immutable: raise `document.version`"),
        ApplyError::Unavailable(e) => e.into(),
    }
}

fn invalid(diagnostics: Vec<Diagnostic>) -> ApiError {
    let first = diagnostics.first().map(ToString::to_string).unwrap_or_default();
    let detail = match diagnostics.len() {
        0 | 1 => first,
        n => format!("{first} (and {} more)", n - 1),
    };
    let diagnostics = serde_json::to_value(diagnostics).unwrap_or(Value::Null);
    ApiError::new(Code::InvalidDefinition, detail).with("diagnostics", diagnostics)
}

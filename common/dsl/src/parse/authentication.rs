//! Authentication policies.

use super::core::Parser;
use super::node::{At, Entry, Node};
use super::scope::Vars;
use super::shape;
use super::uses::Kind;
use crate::model::{Authentication, Feature};
use crate::template::Template;

const SCHEMES: [&str; 5] = ["basic", "bearer", "digest", "oauth2", "oidc"];

impl Parser<'_> {
    /// A policy, or `use: <name>` of one in `use.authentications`.
    pub(super) fn authentication(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Authentication> {
        if let Some(name) = node.text() {
            let hint = format!("write `{{ use: {name} }}`");
            self.expected_hint("an authentication policy", node, at, &hint);
            return None;
        }
        let Some(reference) = node.get("use") else {
            return self.policy(node, at, vars);
        };
        self.fields(node, at, "a reference to an authentication", &["use"])?;
        let at = at.entry(reference);
        let name = self.constant(&reference.node, &at, "the name of an authentication")?;
        let entry = self.find(Kind::Authentication, name, &reference.node, &at)?;
        self.declared(Kind::Authentication, entry, |p, at| {
            p.policy(&entry.node, at, vars)
        })
    }

    /// One scheme with its configuration.
    pub(super) fn policy(&mut self, node: &Node, at: &At<'_>, vars: &Vars) -> Option<Authentication> {
        let fields = self.fields(node, at, "an authentication policy", &SCHEMES)?;
        let scheme = self.exactly_one(&fields, at, "an authentication policy", &SCHEMES)?;
        let at = at.entry(scheme);
        match scheme.key.as_str() {
            "digest" => self.note(Feature::Digest, &at),
            "oauth2" => self.note(Feature::OAuth2, &at),
            "oidc" => self.note(Feature::Oidc, &at),
            _ => {}
        }
        if let Some(secret) = scheme.node.get("use") {
            return self.secret_policy(scheme, secret, &at, vars);
        }
        self.scheme(scheme, &at, vars)
    }

    fn secret_policy(
        &mut self,
        scheme: &Entry,
        secret: &Entry,
        at: &At<'_>,
        vars: &Vars,
    ) -> Option<Authentication> {
        self.fields(&scheme.node, at, "a policy from a secret", &["use"])?;
        let at = at.entry(secret);
        self.note(Feature::Secrets, &at);
        if !vars.late {
            let fault = at.error_in(
                &secret.node,
                "a secret cannot be used here: only workers have secrets",
            );
            self.report(fault.hint("use it in the authentication of a call"));
        }
        let name = self.constant(&secret.node, &at, "the name of a secret")?;
        if !self.uses.secrets.contains(name) {
            let hint = self.suggest(
                name,
                self.uses.secrets.iter().copied(),
                "secrets in `use.secrets`",
            );
            self.report(
                at.error_in(&secret.node, format!("unknown secret `{name}`"))
                    .hint(hint),
            );
        }
        Some(Authentication::Secret {
            scheme: scheme.key.clone(),
            secret: name.to_owned(),
        })
    }

    fn scheme(&mut self, scheme: &Entry, at: &At<'_>, vars: &Vars) -> Option<Authentication> {
        match scheme.key.as_str() {
            "basic" => {
                let (username, password) = self.credentials(scheme, at, vars)?;
                Some(Authentication::Basic { username, password })
            }
            "digest" => {
                let (username, password) = self.credentials(scheme, at, vars)?;
                Some(Authentication::Digest { username, password })
            }
            "bearer" => self.bearer(scheme, at, vars),
            "oauth2" => self
                .shaped(&scheme.node, at, &shape::OAUTH2, vars)
                .map(Authentication::OAuth2),
            _ => self
                .shaped(&scheme.node, at, &shape::OIDC, vars)
                .map(Authentication::Oidc),
        }
    }

    fn bearer(&mut self, scheme: &Entry, at: &At<'_>, vars: &Vars) -> Option<Authentication> {
        if let Some(token) = scheme.node.text() {
            let hint = format!("write `bearer: {{ token: {} }}`", super::node::excerpt(token));
            self.expected_hint("an object", &scheme.node, at, &hint);
            return None;
        }
        let fields = self.fields(&scheme.node, at, "`bearer`", &["token"])?;
        let token = self.required(&fields, at, "`bearer`", "token")?;
        Some(Authentication::Bearer {
            token: self.text_template(&token.node, &at.entry(token), vars, true),
        })
    }

    fn credentials(&mut self, scheme: &Entry, at: &At<'_>, vars: &Vars) -> Option<(Template, Template)> {
        let what = format!("`{}`", scheme.key);
        let fields = self.fields(&scheme.node, at, &what, &["username", "password"])?;
        let mut text = |key| {
            let entry = self.required(&fields, at, &what, key)?;
            Some(self.text_template(&entry.node, &at.entry(entry), vars, true))
        };
        let (username, password) = (text("username"), text("password"));
        Some((username?, password?))
    }
}

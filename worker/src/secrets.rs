//! Secrets of this worker, from its environment or from files. They are looked up whenever a step needs one, so a
//! secret that was exchanged counts from the next step on. None of them leaves the worker: see [`Mask`].
//!
//! | where | gives |
//! | --- | --- |
//! | variable `MILLRACE_SECRET_<NAME>`, the name in capitals with `_` for everything but letters and digits | a JSON object when the text is one, else the text |
//! | file `<MILLRACE_SECRETS_DIR>/<name>` | the same; one line break at its end is dropped |
//! | directory `<MILLRACE_SECRETS_DIR>/<name>/` | an object of its files' texts: a mounted Kubernetes secret |

mod forms;
mod mask;

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millrace_common::{ErrorKind, limits};
use serde_json::{Map, Value};

use crate::Failure;

pub(crate) use mask::Mask;

/// Prefix of variables that hold a secret.
pub(crate) const VARIABLE_PREFIX: &str = "MILLRACE_SECRET_";

type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Secrets {
    variables: Variables,
    dir: Option<PathBuf>,
}

impl Secrets {
    /// From the environment of this process, and a directory.
    pub(crate) fn from_env(dir: Option<PathBuf>) -> Self {
        Self::new(|name| std::env::var(name).ok(), dir)
    }

    pub(crate) fn new(
        variables: impl Fn(&str) -> Option<String> + Send + Sync + 'static,
        dir: Option<PathBuf>,
    ) -> Self {
        Self {
            variables: Arc::new(variables),
            dir,
        }
    }

    /// The value of a secret: a text or an object.
    ///
    /// # Errors
    /// An `authorization` failure that names the secret and where it was looked for, or why it cannot be read.
    pub(crate) fn read(&self, name: &str) -> Result<Value, Failure> {
        let variable = variable(name);
        if let Some(text) = (self.variables)(&variable) {
            return Ok(parsed(text));
        }
        let found = match self.path(name) {
            Some(path) => read(&path).map_err(|reason| {
                denied(format!(
                    "secret `{name}` cannot be read from {}: {reason}",
                    path.display()
                ))
            })?,
            None => None,
        };
        found.ok_or_else(|| denied(self.missing(name, &variable)))
    }

    /// Names that could leave the directory, or are hidden in it, are names of no file.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let is_plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
        self.dir.as_ref().filter(|_| is_plain).map(|dir| dir.join(name))
    }

    fn missing(&self, name: &str, variable: &str) -> String {
        let file = match (&self.dir, self.path(name)) {
            (_, Some(path)) => path.display().to_string(),
            (Some(dir), None) => format!("a file in {} (the name cannot be a file's)", dir.display()),
            (None, None) => "a file (MILLRACE_SECRETS_DIR is not set)".into(),
        };
        format!(
            "secret `{name}` is not available to this worker: looked for the variable {variable} and {file}"
        )
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secrets")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

fn denied(detail: String) -> Failure {
    Failure::new(ErrorKind::Authorization, detail)
}

/// `MILLRACE_SECRET_API_KEY` for `api-key`.
fn variable(name: &str) -> String {
    let letter = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    name.chars().fold(VARIABLE_PREFIX.to_owned(), |mut all, c| {
        all.push(letter(c));
        all
    })
}

/// An object if the text is one in JSON; a text otherwise, also when it is a number.
fn parsed(text: String) -> Value {
    match serde_json::from_str(&text) {
        Ok(object @ Value::Object(_)) => object,
        Ok(_) | Err(_) => Value::String(text),
    }
}

/// `None` when there is nothing under the path.
fn read(path: &Path) -> Result<Option<Value>, String> {
    let kind = match std::fs::metadata(path) {
        Ok(kind) => kind,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if kind.is_dir() {
        directory(path)
    } else {
        text(path).map(parsed)
    }
    .map(Some)
}

fn directory(path: &Path) -> Result<Value, String> {
    let mut members = Map::new();
    for entry in std::fs::read_dir(path).map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        let key = entry.file_name().to_string_lossy().into_owned();
        // Kubernetes keeps the versions of a mounted secret in hidden directories beside links to their files.
        let is_file = std::fs::metadata(entry.path()).is_ok_and(|m| m.is_file());
        if key.starts_with('.') || !is_file {
            continue;
        }
        if members.len() == limits::SECRET_KEYS_MAX {
            return Err(format!("it has more than {} keys", limits::SECRET_KEYS_MAX));
        }
        members.insert(key, Value::String(text(&entry.path())?));
    }
    Ok(Value::Object(members))
}

fn text(path: &Path) -> Result<String, String> {
    let max = limits::SECRET_BYTES_MAX;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    file.take(max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    if bytes.len() > max {
        return Err(format!("it has more than {max} bytes"));
    }
    let mut text = String::from_utf8(bytes).map_err(|_e| "it is not text in UTF-8".to_owned())?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let name = format!("millrace-secrets-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn file(&self, name: &str, text: &str) {
            let path = self.0.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    fn detail(result: Result<Value, Failure>) -> String {
        let problem = result.unwrap_err().problem().unwrap().clone();
        assert_eq!(
            (problem.standard(), problem.status),
            (Some(ErrorKind::Authorization), 403)
        );
        problem.detail.unwrap()
    }

    #[test]
    fn variables_are_texts_or_objects() {
        let variables = |name: &str| match name {
            "MILLRACE_SECRET_API_KEY" => Some("k3y".to_owned()),
            "MILLRACE_SECRET_LOGIN" => Some(r#"{"username":"u"}"#.to_owned()),
            "MILLRACE_SECRET_PIN" => Some("0042".to_owned()),
            _ => None,
        };
        let secrets = Secrets::new(variables, None);
        assert_eq!(secrets.read("api-key").unwrap(), json!("k3y"));
        assert_eq!(secrets.read("login").unwrap(), json!({"username": "u"}));
        assert_eq!(secrets.read("pin").unwrap(), json!("0042"));
        let missing = detail(secrets.read("other"));
        assert!(
            missing.contains("`other`") && missing.contains("MILLRACE_SECRET_OTHER"),
            "{missing}"
        );
        assert!(missing.contains("MILLRACE_SECRETS_DIR is not set"), "{missing}");
    }

    #[test]
    fn files_and_directories_are_read() {
        let dir = Dir::new("files");
        dir.file("token", "t0ken\r\n");
        dir.file("login", "{\"username\": \"u\"}\n");
        dir.file("mounted/username", "admin");
        dir.file("mounted/password", "pass\nword\n");
        dir.file("mounted/..data", "not a key");
        let secrets = Secrets::new(|_| None, Some(dir.0.clone()));
        assert_eq!(secrets.read("token").unwrap(), json!("t0ken"));
        assert_eq!(secrets.read("login").unwrap(), json!({"username": "u"}));
        assert_eq!(
            secrets.read("mounted").unwrap(),
            json!({"username": "admin", "password": "pass\nword"})
        );
        assert!(detail(secrets.read("absent")).contains("/absent"));
    }

    #[test]
    fn no_name_leaves_the_directory() {
        let dir = Dir::new("inside");
        dir.file("outside", "x");
        dir.file("in/side", "y");
        let secrets = Secrets::new(|_| None, Some(dir.0.join("in")));
        for name in ["../outside", "..", ".", "/etc/hostname", ""] {
            assert!(
                detail(secrets.read(name)).contains("cannot be a file's"),
                "{name}"
            );
        }
        assert_eq!(secrets.read("side").unwrap(), json!("y"));
    }

    #[test]
    fn large_and_binary_files_are_refused() {
        let dir = Dir::new("large");
        dir.file("large", &"x".repeat(limits::SECRET_BYTES_MAX + 1));
        std::fs::write(dir.0.join("binary"), [0xff, 0xfe]).unwrap();
        let secrets = Secrets::new(|_| None, Some(dir.0.clone()));
        assert!(detail(secrets.read("large")).contains("more than"));
        assert!(detail(secrets.read("binary")).contains("UTF-8"));
    }
}

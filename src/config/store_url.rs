//! The address of the database, whose password nothing prints.

use std::{fmt, path::Path};

use url::Url;

use crate::secret::Secret;

/// `sqlite:PATH` or `postgres://…`. `Debug` and `Display` leave a password out.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl {
    url: Secret,
    shown: String,
}

impl StoreUrl {
    /// The default: a file in the state directory.
    pub(super) fn in_state(state_dir: &Path) -> Self {
        let shown = format!("sqlite:{}/gateway.db", state_dir.display());
        Self { url: Secret::new(shown.clone().into_bytes()), shown }
    }

    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it, without any of its text: it may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORMS: &str = "expected sqlite:PATH or postgres://USER@HOST/DATABASE";
        let shown = match text.split_once(':') {
            Some(("sqlite", path)) if path.trim_start_matches('/').is_empty() => {
                return Err("sqlite: needs the path of a file".into());
            }
            Some(("sqlite", _)) => text.to_owned(),
            Some(("postgres" | "postgresql", _)) => {
                let mut url = Url::parse(text).map_err(|error| format!("{error}; {FORMS}"))?;
                if !url.has_host() {
                    return Err(format!("there is no host in it; {FORMS}"));
                }
                // The query may hold a password too.
                url.set_query(None);
                url.set_fragment(None);
                if url.password().is_some() && url.set_password(Some("[redacted]")).is_err() {
                    return Err(FORMS.into());
                }
                url.to_string()
            }
            Some(_) | None => return Err(FORMS.into()),
        };
        Ok(Self { url: Secret::new(text.as_bytes().to_vec()), shown })
    }

    /// The URL as it was written, for the one place that opens the database.
    pub fn expose(&self) -> &str {
        // It was made from a `str`; the fallback keeps this free of panics.
        std::str::from_utf8(self.url.expose()).unwrap_or(&self.shown)
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_kept_and_not_shown() {
        for text in [
            "postgres://gateway:hunter2@db.example:5432/egress",
            "postgresql://db.example/egress?user=gateway&password=hunter2",
        ] {
            let url = StoreUrl::parse(text).unwrap();
            assert_eq!(url.expose(), text);
            assert!(!format!("{url} {url:?}").contains("hunter2"), "{url}");
            assert!(url.to_string().contains("db.example"), "{url}");
        }
    }

    #[test]
    fn no_problem_shows_the_url() {
        for text in [
            "mysql://gateway:hunter2@db.example",
            "postgres://gateway:hunter2@db.example:port/x",
            "postgres:hunter2",
            "postgres://",
            "hunter2",
            "sqlite:",
            "sqlite://",
        ] {
            let problem = StoreUrl::parse(text).unwrap_err();
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn the_default_lies_in_the_state_directory() {
        let url = StoreUrl::in_state(Path::new("state"));
        assert_eq!(url.expose(), "sqlite:state/gateway.db");
        assert_eq!(StoreUrl::parse("sqlite:state/gateway.db"), Ok(url));
    }
}

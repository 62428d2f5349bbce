//! A method of a service: its path, its kind of streaming, and whether it may be repeated.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Which sides stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One request, one response.
    Unary,
    /// One request, many responses.
    ServerStream,
    /// Many requests, one response.
    ClientStream,
    /// Many of both.
    BidiStream,
}

impl Kind {
    /// Whether the caller sends many messages.
    #[must_use]
    pub const fn client_streams(self) -> bool {
        matches!(self, Self::ClientStream | Self::BidiStream)
    }

    /// Whether the server sends many messages.
    #[must_use]
    pub const fn server_streams(self) -> bool {
        matches!(self, Self::ServerStream | Self::BidiStream)
    }
}

/// A method, as both sides know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    path: Path,
    /// Which sides stream.
    pub kind: Kind,
    /// Repeating a call has no further effect (`idempotency_level` in the proto).
    pub idempotent: bool,
    /// The call has no effect at all, so that HTTP GET may carry it.
    pub safe: bool,
}

/// Generated code knows its paths at compile time; proxies learn theirs.
#[derive(Clone, Debug)]
enum Path {
    Static(&'static str),
    Shared(Arc<str>),
}

impl PartialEq for Path {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Path {}

impl Path {
    fn as_str(&self) -> &str {
        match self {
            Self::Static(path) => path,
            Self::Shared(path) => path,
        }
    }
}

impl Method {
    /// A method of generated code; the path is `/package.Service/Method`.
    #[must_use]
    pub const fn new(path: &'static str, kind: Kind) -> Self {
        Self { path: Path::Static(path), kind, idempotent: false, safe: false }
    }

    /// A method learnt at run time, from a registry or by reflection.
    #[must_use]
    pub fn dynamic(path: impl Into<Arc<str>>, kind: Kind) -> Self {
        Self { path: Path::Shared(path.into()), kind, idempotent: false, safe: false }
    }

    /// Marks the method as repeatable without further effect.
    #[must_use]
    pub const fn idempotent(mut self, idempotent: bool) -> Self {
        self.idempotent = idempotent;
        self
    }

    /// Marks the method as without effect, which makes it idempotent too.
    #[must_use]
    pub const fn safe(mut self) -> Self {
        self.idempotent = true;
        self.safe = true;
        self
    }

    /// `/package.Service/Method`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path.as_str()
    }

    /// The path of a method of generated code, which lives for ever; `None` for one learnt at run time.
    #[must_use]
    pub const fn static_path(&self) -> Option<&'static str> {
        match self.path {
            Path::Static(path) => Some(path),
            Path::Shared(_) => None,
        }
    }

    /// `package.Service`.
    #[must_use]
    pub fn service(&self) -> &str {
        split(self.path()).0
    }

    /// `Method`.
    #[must_use]
    pub fn name(&self) -> &str {
        split(self.path()).1
    }
}

/// Splits `/package.Service/Method` (the first slash may be absent) into its two names.
#[must_use]
pub fn split(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.rsplit_once('/').unwrap_or((path, ""))
}

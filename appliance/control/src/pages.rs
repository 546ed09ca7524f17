//! What the endpoint shows, apart from how it is sent.

/// A page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its media type.
    pub content_type: &'static str,
    /// Its content.
    pub body: String,
}

/// Whoever knows a node.
pub trait Pages: Send + Sync {
    /// Counters in Prometheus' text format 0.0.4.
    fn metrics(&self) -> Page;

    /// State for people and programs, JSON.
    fn status(&self) -> Page;

    /// Whether it serves.
    fn health(&self) -> Page;
}

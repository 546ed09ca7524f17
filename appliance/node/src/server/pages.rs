//! Who answers peers that ask for a page where clients connect.

use std::{fmt, sync::Mutex};

use sheen_rdma::PageSink;

use super::Node;

/// The sink, until the acceptor has it.
#[derive(Default)]
pub(super) struct Pages(Mutex<Option<PageSink>>);

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

impl Pages {
    pub(super) fn take(&self) -> Option<PageSink> {
        self.0.lock().ok()?.take()
    }
}

impl Node {
    /// Has peers that ask for a page by HTTP where clients connect answered by `pages`, once connections are accepted.
    pub fn serve_pages(&self, pages: PageSink) {
        if let Ok(mut there) = self.pages.0.lock() {
            *there = Some(pages);
        }
    }
}

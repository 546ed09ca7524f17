//! `stat`: attributes from the cache or the MDT, size and mtime from what is known of the objects or by asking them.

use std::sync::Arc;

use sheen_ports::Cancel;
use sheen_types::{Attributes, Errno, FileKind, Layout};
use sheen_wire::{
    Opcode,
    lease::bits,
    metadata::{AttributesReply, GetAttributes},
};

use crate::{
    client::Client,
    data_lease::DataMode,
    glimpse::merged,
    inode::{Inode, InodeState, Known},
    lease::LAYOUT_ROOM,
    request::Request,
    statistics::count,
};

/// What may be cached, as long as the inode's losses, or its version, are those given (see [`Inode::window`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caching {
    /// Nothing.
    Never,
    /// Until something is asked back.
    WhileLosses(u64),
    /// Until something is asked back, or this client changes the inode (see [`Inode::version`]).
    WhileVersion(u64, u64),
}

impl Caching {
    pub(crate) fn from_settled(losses: Option<u64>) -> Self {
        losses.map_or(Self::Never, Self::WhileLosses)
    }

    pub(crate) fn of_attributes(version: Option<(u64, u64)>) -> Self {
        version.map_or(Self::Never, |(losses, changed_at)| Self::WhileVersion(losses, changed_at))
    }

    /// The losses, if it may be cached.
    #[must_use]
    pub fn losses(self) -> Option<u64> {
        match self {
            Self::Never => None,
            Self::WhileLosses(losses) | Self::WhileVersion(losses, _) => Some(losses),
        }
    }
}

/// Attributes with what may be done with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observed {
    /// The attributes, size and times of a file included.
    pub attributes: Attributes,
    /// Whether they may be cached.
    pub caching: Caching,
    /// Size, space and times of a file are what the objects say; else the MDT's copy, which may be old.
    pub is_complete: bool,
}

impl Client {
    /// Attributes of an inode.
    ///
    /// # Errors
    /// ESTALE or ENOENT when it does not exist any more, EINTR.
    pub fn attributes(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        cancel: &Cancel,
    ) -> Result<Observed, Errno> {
        self.wait_pages(inode, cancel)?;
        let (attributes, caching) = self.metadata_attributes(inode, cancel)?;
        self.complete(inode, attributes, caching, cancel)
    }

    /// Attributes if all of them are cached.
    #[must_use]
    pub fn cached(&self, inode: &Inode) -> Option<Observed> {
        let state = inode.lock();
        if state.voiding || self.lease_left().is_zero() {
            return None;
        }
        let mut attributes = state.attributes?;
        if attributes.kind == FileKind::Regular {
            attributes = merged(attributes, &state.known_under_lease()?);
        }
        attributes.atime = attributes.read_at(state.accessed);
        let caching = Caching::WhileVersion(state.losses, state.changed_at);
        Some(Observed { attributes, caching, is_complete: true })
    }

    /// The MDT's attributes, from the cache if they are there.
    pub(crate) fn metadata_attributes(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        cancel: &Cancel,
    ) -> Result<(Attributes, Caching), Errno> {
        self.wait_valid(cancel)?;
        {
            let state = inode.lock();
            if let Some(attributes) = state.attributes {
                count(&self.counters.attribute_hits);
                let caching = Caching::WhileVersion(state.losses, state.changed_at);
                return Ok((attributes, caching));
            }
        }
        count(&self.counters.attribute_misses);
        let stamp = self.stamp();
        let body = GetAttributes { fid: inode.fid };
        let request =
            Request::new(Opcode::GetAttributes, &body).with_room(LAYOUT_ROOM).about(inode);
        let reply = self.ask(request, cancel)?;
        let found: AttributesReply = reply.decode()?;
        let version = self.settle(inode, &reply, stamp, &found.attributes, &found.lease).attributes;
        if version.is_none() && found.attributes.kind == FileKind::Regular {
            self.keep_layout(inode, &reply);
        }
        Ok((found.attributes, Caching::of_attributes(version)))
    }

    /// Adds what only the objects of a file know.
    pub(crate) fn complete(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        mut attributes: Attributes,
        mut caching: Caching,
        cancel: &Cancel,
    ) -> Result<Observed, Errno> {
        if attributes.kind == FileKind::Regular {
            // With attributes the kernel reads on in the pages it has.
            self.wait_void(inode, cancel)?;
            (attributes, caching) = self.complete_file(inode, attributes, caching, cancel)?;
        }
        let state = inode.lock();
        attributes.atime = attributes.read_at(state.accessed);
        if state.dropping > 0 {
            // Whoever reads asks again, and waits.
            caching = Caching::Never;
        }
        drop(state);
        Ok(Observed { attributes, caching, is_complete: true })
    }

    fn complete_file(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        attributes: Attributes,
        caching: Caching,
        cancel: &Cancel,
    ) -> Result<(Attributes, Caching), Errno> {
        if let Some(known) = inode.lock().known_under_lease() {
            return Ok((merged(attributes, &known), caching));
        }
        let layout = self.layout(inode, cancel)?;
        let Some(hold) = self.hold_if_held(inode) else {
            let known = self.glimpse(&layout, lazy_copy(&attributes), cancel)?;
            return Ok((merged(attributes, &known), Caching::Never));
        };
        if !inode.has_layout(&layout) {
            drop(hold);
            let known = self.glimpse(&layout, lazy_copy(&attributes), cancel)?;
            return Ok((merged(attributes, &known), Caching::Never));
        }
        let (known, kept) = self.learn_content(inode, &layout, lazy_copy(&attributes), cancel)?;
        drop(hold);
        Ok((merged(attributes, &known), if kept { caching } else { Caching::Never }))
    }

    /// Asks the objects under the lease (the caller holds it) and keeps what they say, unless a write of our own that
    /// ended meanwhile may or may not be in the answer; whether it was kept.
    pub(crate) fn learn_content(
        self: &Arc<Self>,
        inode: &Inode,
        layout: &Layout,
        without_objects: Known,
        cancel: &Cancel,
    ) -> Result<(Known, bool), Errno> {
        let writes = inode.lock().writes_noted;
        let known = self.glimpse(layout, without_objects, cancel)?;
        let mut state = inode.lock();
        let quiet = state.writes_noted == writes && state.writing == 0;
        if quiet {
            state.known = Some(known);
        }
        Ok((known, quiet))
    }
}

/// What counts for a file without objects: the MDT's copy.
pub(crate) fn lazy_copy(attributes: &Attributes) -> Known {
    Known { size: attributes.size, blocks: Some(attributes.blocks), mtime: attributes.mtime }
}

impl InodeState {
    /// Whether size, space and times are known without asking the objects.
    pub(crate) fn is_size_known(&self) -> bool {
        self.known_under_lease().is_some()
    }

    /// What is known of the content, if nothing of the lease it hangs on was asked back.
    pub(crate) fn known_under_lease(&self) -> Option<Known> {
        let held = self.data.mode != DataMode::None && self.revoking & bits::DATA == 0;
        self.known.filter(|known| held && known.blocks.is_some())
    }
}

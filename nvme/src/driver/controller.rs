//! The handle of an attached controller.

use std::{
    fmt,
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use sheen_dma::{Arena, Buffer};
use sheen_types::BLOCK_BYTES;

use super::{
    admin::{AdminError, AdminReply, page},
    attach::{AttachError, QueueError},
    device::Device,
    namespace::{Namespace, NamespaceError},
    notice::{ControllerCounts, ControllerState, Notice, Watch},
    options::Options,
    queue::QueuePair,
    shared::Postbox,
    supervisor::{Event, Supervisor, mapped_arenas},
};
use crate::{
    spec::{Sqe, identify::IdentifyController, layout::text},
    transport::{PciIdentity, Transport, TransportError},
};

/// An attached controller. It stays attached until this handle and every queue pair are dropped; any thread may use it.
pub struct Controller {
    postbox: Postbox,
    arena: Arena,
    watch: Arc<Watch>,
    identify: Arc<IdentifyController>,
    identity: PciIdentity,
    description: String,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Controller");
        debug.field("description", &self.description).field("state", &self.watch.state());
        debug.finish_non_exhaustive()
    }
}

/// Data of an admin command.
#[derive(Clone, Copy, Debug)]
pub(crate) enum AdminData<'a> {
    None,
    /// A page from the controller.
    In,
    /// At most a page to the controller.
    Out(&'a [u8]),
}

impl Controller {
    /// Attaches the controller: it is reset and enabled, and a thread is started that supervises it. Rings are cut from `arena`,
    /// which the controller may reach from now on; so may buffers be.
    ///
    /// # Errors
    /// [`AttachError`]; the controller is disabled then.
    pub fn attach(
        transport: Box<dyn Transport>,
        arena: &Arena,
        options: Options,
    ) -> Result<Self, AttachError> {
        let (description, identity) = (transport.describe(), transport.identity());
        let shadows = options.use_shadow_doorbells;
        let device = Device::attach(transport, arena, options.queue_pairs_max, shadows)?;
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let event = Arc::new(EventFd::from_flags(flags).map_err(AttachError::System)?);
        let (sender, receiver) = channel();
        let watch = Arc::new(Watch::new());
        let identify = device.identify.clone();
        let postbox = Postbox::new(sender, event.clone());
        let mapped = mapped_arenas(arena);
        let supervisor = Supervisor::new(device, options, watch.clone(), receiver, event, mapped);
        let builder = std::thread::Builder::new().name("nvme-supervisor".to_owned());
        let thread = builder
            .spawn(move || supervisor.run())
            .map_err(|_| AttachError::System(nix::errno::Errno::EAGAIN))?;
        let arena = arena.clone();
        let thread = Some(thread);
        Ok(Self { postbox, arena, watch, identify, identity, description, thread })
    }

    /// How people call it: the way to it.
    #[must_use]
    pub fn describe(&self) -> &str {
        &self.description
    }

    /// What it is on its bus.
    #[must_use]
    pub const fn identity(&self) -> PciIdentity {
        self.identity
    }

    /// What it said of itself when it was attached.
    #[must_use]
    pub fn identify(&self) -> &IdentifyController {
        &self.identify
    }

    /// Its serial number.
    #[must_use]
    pub fn serial(&self) -> String {
        text(&self.identify.sn)
    }

    /// Its model.
    #[must_use]
    pub fn model(&self) -> String {
        text(&self.identify.mn)
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> ControllerState {
        self.watch.state()
    }

    /// What happened since the last call, oldest first.
    #[must_use]
    pub fn take_notices(&self) -> Vec<Notice> {
        self.watch.take_notices()
    }

    /// Counts since it was attached.
    #[must_use]
    pub fn counts(&self) -> ControllerCounts {
        self.watch.counts()
    }

    /// The arena the controller was attached with.
    #[must_use]
    pub const fn arena(&self) -> &Arena {
        &self.arena
    }

    /// A queue pair on namespace `nsid` that takes `depth` commands (fewer if the controller's queues are shorter).
    ///
    /// # Errors
    /// [`QueueError`].
    pub fn queue_pair(&self, nsid: u32, depth: u32) -> Result<QueuePair, QueueError> {
        let postbox = self.postbox.clone();
        self.ask(|reply| Event::Open { nsid, depth, postbox, reply })
            .unwrap_or(Err(QueueError::Admin(AdminError::Gone)))
    }

    /// Identifiers of the namespaces attached to it.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn namespaces(&self) -> Result<Vec<u32>, AdminError> {
        self.ask(|reply| Event::Namespaces { reply }).unwrap_or(Err(AdminError::Gone))
    }

    /// A namespace, or why it is not used.
    ///
    /// # Errors
    /// [`AdminError`].
    pub fn namespace(&self, nsid: u32) -> Result<Result<Namespace, NamespaceError>, AdminError> {
        self.ask(|reply| Event::Namespace { nsid, reply }).unwrap_or(Err(AdminError::Gone))
    }

    /// Lets the controller reach the arena, so that its buffers can go into commands. It stays mapped while the controller is
    /// attached.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn map(&self, arena: &Arena) -> Result<(), TransportError> {
        let arena = arena.clone();
        self.ask(|reply| Event::Map { arena, reply }).unwrap_or(Err(TransportError::Gone))
    }

    /// Resets the controller. Commands under way are sent again.
    ///
    /// # Errors
    /// [`AttachError`]; the controller is given up then.
    pub fn reset(&self) -> Result<(), AttachError> {
        self.ask(|reply| Event::Reset { reply }).unwrap_or(Err(AttachError::Gone))
    }

    /// Detaches the controller, and waits for it. While queue pairs are open it waits for those, too.
    pub fn close(mut self) {
        let thread = self.thread.take();
        drop(self);
        if let Some(thread) = thread {
            // A panic of the supervisor was told by its thread.
            let _ = thread.join();
        }
    }

    fn ask<T>(&self, event: impl FnOnce(Sender<T>) -> Event) -> Option<T> {
        let (sender, receiver) = channel();
        self.postbox.post(event(sender)).ok()?;
        receiver.recv().ok()
    }

    /// Sends an admin command and waits for it. `idle`: the namespace that no queue pair may be open on meanwhile.
    pub(crate) fn admin(
        &self,
        sqe: Sqe,
        data: AdminData<'_>,
        wait: Duration,
        idle: Option<u32>,
    ) -> Result<AdminReply, AdminError> {
        let buffer = match data {
            AdminData::None => None,
            AdminData::In => Some(page(&self.arena)?),
            AdminData::Out(bytes) => Some(self.page_of(bytes)?),
        };
        self.ask(|reply| Event::Admin { sqe, buffer, wait, idle, reply })
            .unwrap_or(Err(AdminError::Gone))
    }

    fn page_of(&self, bytes: &[u8]) -> Result<Buffer, AdminError> {
        let mut buffer = page(&self.arena)?;
        let target = buffer.as_mut_slice().get_mut(..bytes.len());
        let target = target.ok_or(AdminError::Argument("data of more than a page"))?;
        target.copy_from_slice(bytes);
        Ok(buffer)
    }
}

const _: () = assert!(BLOCK_BYTES == 4096, "admin data is a memory page");
const _: () = {
    const fn assert_shareable<T: Send + Sync>() {}
    assert_shareable::<Controller>();
};

//! The controller as its supervisor holds it: the way to it, its admin queue, what it said of itself.

use std::{sync::Arc, time::Duration};

use sheen_dma::{Arena, Buffer, Iova, Registers};

use super::{
    admin::{ADMIN_WAIT, AdminError, AdminQueue, AdminReply, AdminResult, page},
    attach::AttachError,
    bringup,
    limits::{Capabilities, Limits},
    namespace::{Namespace, NamespaceError},
    rings::{RingSizes, Shadow},
};
use crate::{
    spec::{
        AdminOpcode, Sqe, Status,
        command::{
            CreateCqDword11, CreateSqDword11, IdentifyDword10, QueueDword10, SetFeaturesDword10,
            cns,
        },
        feature::{AsyncEventConfiguration, NumberOfQueues, doorbell_index, fid},
        identify::{
            IDENTIFY_BYTES, IdentifyController, IdentifyNamespace, namespace_descriptors,
            namespace_list,
        },
        layout::Bits,
        registers::{Version, offset},
    },
    transport::{DoorbellPair, Transport, TransportError},
};

/// Bytes of a page of shadow doorbells or event indexes [NVMe-2.0c §5.8].
const SHADOW_BYTES: usize = 4096;
/// Namespace lists that are read at most: a controller with more namespaces than 64 lists hold is not for us.
const NAMESPACE_LISTS_MAX: usize = 64;

/// Shadow doorbells and event indexes, in the arena.
#[derive(Debug)]
struct ShadowMemory {
    doorbells: Registers,
    event_indexes: Registers,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) arena: Arena,
    pub(crate) capabilities: Capabilities,
    pub(crate) identify: Arc<IdentifyController>,
    pub(crate) limits: Limits,
    pub(crate) admin: AdminQueue,
    /// I/O queue pairs the controller granted.
    pub(crate) granted: u16,
    shadows: Option<ShadowMemory>,
    /// Of the write cache: VWC says there is one and the feature says it is on.
    is_cache_on: bool,
}

/// A pair of I/O queues to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueuePlan {
    pub(crate) id: u16,
    pub(crate) sizes: RingSizes,
    /// Submission ring, completion ring.
    pub(crate) addresses: [Iova; 2],
    pub(crate) vector: Option<u16>,
}

impl Device {
    /// Brings the controller up: disabled, enabled, identified, its features set.
    pub(crate) fn attach(
        mut transport: Box<dyn Transport>,
        arena: &Arena,
        queue_pairs: u16,
        use_shadow_doorbells: bool,
    ) -> Result<Self, AttachError> {
        let capabilities = bringup::capabilities(&mut *transport)?;
        bringup::disable(&mut *transport, &capabilities)?;
        transport.map(arena)?;
        let stride = capabilities.doorbell_stride;
        let mut doorbells = transport.doorbells(offset::DOORBELLS, stride, 1)?;
        let doorbells = doorbells.pop().ok_or(TransportError::Unsupported)?;
        let mut admin = AdminQueue::new(arena, doorbells).ok_or(AttachError::NoMemory)?;
        let addresses = admin.addresses();
        let enabled = bringup::enable(&mut *transport, &capabilities, addresses);
        let identified = enabled.and_then(|()| {
            let identify = identify_controller(&mut *transport, &mut admin, arena)?;
            let limits = Limits::new(&identify, &capabilities)?;
            Ok((identify, limits))
        });
        let (identify, limits) = match identified {
            Ok(found) => found,
            Err(error) => {
                abandon(transport, &capabilities, arena);
                return Err(error);
            }
        };
        let mut device = Self {
            transport,
            arena: arena.clone(),
            capabilities,
            identify: Arc::new(identify),
            limits,
            admin,
            granted: 0,
            shadows: None,
            is_cache_on: limits.volatile_write_cache,
        };
        if let Err(error) = device.prepare(queue_pairs, use_shadow_doorbells) {
            abandon(device.transport, &device.capabilities, arena);
            return Err(error);
        }
        Ok(device)
    }

    fn call(&mut self, sqe: Sqe, buffer: Option<Buffer>, wait: Duration) -> AdminResult {
        self.admin.call(&mut *self.transport, sqe, buffer, wait)
    }

    fn identify_page(
        &mut self,
        cns: u8,
        nsid: u32,
    ) -> Result<Box<[u8; IDENTIFY_BYTES]>, AdminError> {
        identify(&mut *self.transport, &mut self.admin, &self.arena, cns, nsid)
    }

    fn prepare(&mut self, queue_pairs: u16, use_shadows: bool) -> Result<(), AttachError> {
        if use_shadows && self.limits.shadow_doorbells {
            let room = SHADOW_BYTES / (2 * self.capabilities.doorbell_stride as usize);
            let memory = || self.arena.allocate(SHADOW_BYTES).map(Registers::in_buffer);
            // With a stride so wide that not even one pair has room, doorbells stay doorbells.
            if room > usize::from(queue_pairs) {
                let doorbells = memory().ok_or(AttachError::NoMemory)?;
                let event_indexes = memory().ok_or(AttachError::NoMemory)?;
                self.shadows = Some(ShadowMemory { doorbells, event_indexes });
            }
        }
        self.configure(queue_pairs)
    }

    /// What an enabled controller must be told anew after each reset.
    fn configure(&mut self, queue_pairs: u16) -> Result<(), AttachError> {
        let wanted = queue_pairs.clamp(1, u16::MAX - 1) - 1;
        let ask = NumberOfQueues::default().with_nsq(wanted).with_ncq(wanted);
        let answer = NumberOfQueues(self.set_feature(fid::NUMBER_OF_QUEUES, ask.0)?);
        let granted = answer.nsq().min(answer.ncq()).min(wanted);
        self.granted = granted + 1;
        if let Some(shadows) = &self.shadows {
            for word in (0..SHADOW_BYTES).step_by(4) {
                shadows.doorbells.write32(word, 0);
                shadows.event_indexes.write32(word, 0);
            }
            let iova = |registers: &Registers| registers.iova().map_or(0, |iova| iova.0);
            let pointer = [iova(&shadows.doorbells), iova(&shadows.event_indexes)];
            let sqe = Sqe::admin(AdminOpcode::DOORBELL_BUFFER_CONFIG, 0).with_data_pointer(pointer);
            if let Err(error) = self.call(sqe, None, ADMIN_WAIT) {
                match error {
                    // It offers them and refuses: doorbells stay doorbells.
                    AdminError::Status { .. } => self.shadows = None,
                    other => return Err(other.into()),
                }
            }
        }
        self.configure_events();
        self.is_cache_on = self.limits.volatile_write_cache && self.read_cache_feature();
        Ok(())
    }

    /// Asks for events: health warnings, namespaces, firmware. What it does not know it refuses; then it sends fewer.
    fn configure_events(&mut self) {
        let offered = self.identify.oaes;
        let configuration = AsyncEventConfiguration::default()
            .with_smart(0x1f)
            .with_namespace_attribute(offered.namespace_attribute())
            .with_firmware_activation(offered.firmware_activation());
        let _ = self.set_feature(fid::ASYNC_EVENTS, configuration.0);
    }

    fn read_cache_feature(&mut self) -> bool {
        let sqe = Sqe::admin(AdminOpcode::GET_FEATURES, 0)
            .with_dword(10, u32::from(fid::VOLATILE_WRITE_CACHE));
        // One that does not say has its cache on.
        self.call(sqe, None, ADMIN_WAIT).map_or(true, |reply| reply.dword0 & 1 != 0)
    }

    /// Sets a feature that needs no data; dword 0 of the completion.
    fn set_feature(&mut self, feature: u8, value: u32) -> Result<u32, AdminError> {
        let sqe = Sqe::admin(AdminOpcode::SET_FEATURES, 0)
            .with_dword(10, SetFeaturesDword10::default().with_fid(feature).0)
            .with_dword(11, value);
        self.call(sqe, None, ADMIN_WAIT).map(|reply| reply.dword0)
    }

    /// Enables the disabled controller again, as it was. Its Identify data must be the same.
    pub(crate) fn restart(&mut self, queue_pairs: u16) -> Result<(), AttachError> {
        let addresses = self.admin.addresses();
        bringup::enable(&mut *self.transport, &self.capabilities, addresses)?;
        let identify = identify_controller(&mut *self.transport, &mut self.admin, &self.arena)?;
        let limits = Limits::new(&identify, &self.capabilities)?;
        // New firmware may offer more; what queue pairs rely on must not shrink.
        if limits.transfer_bytes_max < self.limits.transfer_bytes_max {
            let value = u64::from(identify.mdts);
            let what = "MDTS shrank during a reset";
            return Err(super::limits::Impossible { what, value }.into());
        }
        self.identify = Arc::new(identify);
        self.configure(queue_pairs)
    }

    /// Disables the controller, by a function-level reset if need be.
    pub(crate) fn disable(&mut self) -> Result<(), AttachError> {
        let result = bringup::disable(&mut *self.transport, &self.capabilities);
        match result {
            Ok(()) | Err(AttachError::Gone) => result,
            Err(_) => {
                self.transport.reset()?;
                bringup::disable(&mut *self.transport, &self.capabilities)
            }
        }
    }

    /// A namespace, judged.
    pub(crate) fn namespace(
        &mut self,
        nsid: u32,
    ) -> Result<Result<Namespace, NamespaceError>, AdminError> {
        if nsid == 0 || nsid > self.limits.namespaces_max {
            return Ok(Err(NamespaceError::Absent { nsid }));
        }
        let found = match self.identify_page(cns::NAMESPACE, nsid) {
            Ok(page) => IdentifyNamespace::decode(&page),
            Err(AdminError::Status { status: Status::INVALID_NAMESPACE_OR_FORMAT, .. }) => {
                return Ok(Err(NamespaceError::Absent { nsid }));
            }
            Err(error) => return Err(error),
        };
        let mut descriptors = Vec::new();
        if self.capabilities.version.0 >= Version::new(1, 3, 0).0 && found.nsze > 0 {
            match self.identify_page(cns::NAMESPACE_DESCRIPTORS, nsid) {
                Ok(page) => descriptors = namespace_descriptors(&page),
                // Some of 1.3 do not know it; then the command set is NVM.
                Err(AdminError::Status { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let limits = Limits { volatile_write_cache: self.is_cache_on, ..self.limits };
        Ok(Namespace::new(nsid, &found, &descriptors, &self.identify, &limits))
    }

    /// Identifiers of the active namespaces.
    pub(crate) fn namespaces(&mut self) -> Result<Vec<u32>, AdminError> {
        if self.capabilities.version.0 < Version::new(1, 1, 0).0 {
            return Ok((1..=self.limits.namespaces_max.min(1024)).collect());
        }
        let mut all: Vec<u32> = Vec::new();
        for _ in 0..NAMESPACE_LISTS_MAX {
            let after = all.last().copied().unwrap_or(0);
            let page = self.identify_page(cns::ACTIVE_NAMESPACES, after)?;
            let list = namespace_list(&page, after);
            let list = list.map_err(|_| AdminError::Impossible("a namespace list not in order"))?;
            let is_last = list.len() < crate::spec::identify::NAMESPACE_LIST_ENTRIES;
            all.extend(list);
            if is_last {
                return Ok(all);
            }
        }
        Err(AdminError::Impossible("namespace lists without end"))
    }

    /// The doorbells of queue pair `id`.
    pub(crate) fn doorbells(&mut self, id: u16) -> Result<DoorbellPair, TransportError> {
        let stride = self.capabilities.doorbell_stride;
        let mut all = self.transport.doorbells(offset::DOORBELLS, stride, id + 1)?;
        all.pop().ok_or(TransportError::Unsupported)
    }

    /// Shadow doorbells of queue pair `id`, tail and head, zeroed.
    pub(crate) fn shadows(&self, id: u16) -> Option<[Shadow; 2]> {
        let shadows = self.shadows.as_ref()?;
        Some([false, true].map(|is_completion| {
            let index = doorbell_index(id, is_completion) as usize;
            let at = index * self.capabilities.doorbell_stride as usize;
            shadows.doorbells.write32(at, 0);
            shadows.event_indexes.write32(at, 0);
            Shadow {
                doorbell: shadows.doorbells.register(at),
                event_index: shadows.event_indexes.register(at),
            }
        }))
    }

    /// Makes a pair of I/O queues.
    pub(crate) fn create_queues(&mut self, plan: &QueuePlan) -> Result<(), AdminError> {
        // Positions start at zero; so must their shadows.
        let _ = self.shadows(plan.id);
        let size = |entries: u32| Bits::from_bits(u64::from(entries - 1));
        let dword10 =
            |entries| QueueDword10::default().with_qid(plan.id).with_qsize(size(entries)).0;
        let [submission, completion] = plan.addresses;
        let interrupts = CreateCqDword11::default()
            .with_pc(true)
            .with_ien(plan.vector.is_some())
            .with_iv(plan.vector.unwrap_or(0));
        let cq = Sqe::admin(AdminOpcode::CREATE_IO_CQ, 0)
            .with_data_pointer([completion.0, 0])
            .with_dword(10, dword10(plan.sizes.completion))
            .with_dword(11, interrupts.0);
        self.call(cq, None, ADMIN_WAIT)?;
        let link = CreateSqDword11::default().with_pc(true).with_cqid(plan.id);
        let sq = Sqe::admin(AdminOpcode::CREATE_IO_SQ, 0)
            .with_data_pointer([submission.0, 0])
            .with_dword(10, dword10(plan.sizes.submission))
            .with_dword(11, link.0);
        let made = self.call(sq, None, ADMIN_WAIT);
        if made.is_err() {
            let _ = self.delete(AdminOpcode::DELETE_IO_CQ, plan.id, ADMIN_WAIT);
        }
        made.map(drop)
    }

    /// Deletes a pair of I/O queues: when this returns Ok the controller uses nothing of them any more.
    pub(crate) fn delete_queues(&mut self, id: u16) -> Result<(), AdminError> {
        self.delete_queues_within(id, ADMIN_WAIT)
    }

    /// As [`Self::delete_queues`], each with so much time.
    pub(crate) fn delete_queues_within(
        &mut self,
        id: u16,
        wait: Duration,
    ) -> Result<(), AdminError> {
        self.delete(AdminOpcode::DELETE_IO_SQ, id, wait)?;
        self.delete(AdminOpcode::DELETE_IO_CQ, id, wait)
    }

    fn delete(&mut self, opcode: AdminOpcode, id: u16, wait: Duration) -> Result<(), AdminError> {
        let sqe = Sqe::admin(opcode, 0).with_dword(10, QueueDword10::default().with_qid(id).0);
        self.call(sqe, None, wait).map(drop)
    }
}

/// Ends the controller's use of the arena by all means there are, when attaching failed. The caller keeps the memory of its
/// rings and commands until this returned.
fn abandon(mut transport: Box<dyn Transport>, capabilities: &Capabilities, arena: &Arena) {
    if bringup::disable(&mut *transport, capabilities).is_err() {
        // Whichever of these works: a reset stops it, unmapping takes the memory away, and so does dropping the way to it.
        let _ = transport.reset();
        let _ = transport.unmap(arena);
    }
}

fn identify_controller(
    transport: &mut dyn Transport,
    admin: &mut AdminQueue,
    arena: &Arena,
) -> Result<IdentifyController, AttachError> {
    let page = identify(transport, admin, arena, cns::CONTROLLER, 0)?;
    Ok(IdentifyController::decode(&page))
}

/// An Identify data structure.
fn identify(
    transport: &mut dyn Transport,
    admin: &mut AdminQueue,
    arena: &Arena,
    cns: u8,
    nsid: u32,
) -> Result<Box<[u8; IDENTIFY_BYTES]>, AdminError> {
    let sqe = Sqe::admin(AdminOpcode::IDENTIFY, nsid)
        .with_dword(10, IdentifyDword10::default().with_cns(cns).0);
    let reply = admin.call(transport, sqe, Some(page(arena)?), ADMIN_WAIT)?;
    let buffer = reply_page(reply)?;
    buffer
        .as_slice()
        .first_chunk()
        .map(|bytes| Box::new(*bytes))
        .ok_or(AdminError::Impossible("a page shorter than a page"))
}

fn reply_page(reply: AdminReply) -> Result<Buffer, AdminError> {
    reply.buffer.ok_or(AdminError::Impossible("an answer without its page"))
}

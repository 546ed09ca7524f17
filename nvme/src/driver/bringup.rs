//! Disabling and enabling a controller [NVMe-2.0c §3.5.1, §3.7.2].
//!
//! | step | next |
//! |---|---|
//! | Settling (CC.EN is 1, CSTS.RDY not yet) | Disabling when ready, fatal, or out of time |
//! | Disabling (CC.EN written 0) | Disabled when CSTS.RDY is 0 |
//! | Disabled | Enabling: AQA, ASQ, ACQ and CC are written |
//! | Enabling (CC.EN written 1) | Ready when CSTS.RDY is 1 |
//!
//! Each wait is bounded by CAP.TO. While disabled the controller reaches no memory.

use std::{
    fmt,
    time::{Duration, Instant},
};

use sheen_dma::Iova;

use super::{admin::ADMIN_SIZES, attach::AttachError, limits::Capabilities};
use crate::{
    spec::{
        entry::{CQE_BYTES_LOG2, SQE_BYTES_LOG2},
        layout::Bits,
        registers::{
            AdminQueueAttributes, ControllerCapabilities, ControllerConfiguration,
            ControllerStatus, GONE_32, SHN_NORMAL, SHST_COMPLETE, Version, offset,
        },
    },
    transport::Transport,
};

/// How far a controller came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It was enabled by somebody, and is not ready yet.
    Settling,
    /// It is being disabled.
    Disabling,
    /// It is disabled.
    Disabled,
    /// It is being enabled.
    Enabling,
    /// It takes commands.
    Ready,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settling => "waiting for an enabling under way",
            Self::Disabling => "disabling the controller",
            Self::Disabled => "setting up the controller",
            Self::Enabling => "enabling the controller",
            Self::Ready => "running the controller",
        })
    }
}

/// Pause between two looks at CSTS.
const PAUSE: Duration = Duration::from_millis(1);
/// A normal shutdown takes as long as the cache needs to be written. Longest wait for a controller that does not say (RTD3E).
const SHUTDOWN_WAIT: Duration = Duration::from_secs(10);

/// Reads and judges CAP and VS.
pub(crate) fn capabilities(transport: &mut dyn Transport) -> Result<Capabilities, AttachError> {
    let version = transport.read32(offset::VS)?;
    let cap = transport.read64(offset::CAP)?;
    if version == GONE_32 || cap == u64::MAX {
        return Err(AttachError::Gone);
    }
    Ok(Capabilities::new(ControllerCapabilities(cap), Version(version))?)
}

/// Reads CSTS.
pub(crate) fn status(transport: &mut dyn Transport) -> Result<ControllerStatus, AttachError> {
    match transport.read32(offset::CSTS)? {
        GONE_32 => Err(AttachError::Gone),
        bits => Ok(ControllerStatus(bits)),
    }
}

/// Disables the controller: when this returns it reaches no memory.
pub(crate) fn disable(
    transport: &mut dyn Transport,
    capabilities: &Capabilities,
) -> Result<(), AttachError> {
    let configuration = transport.read32(offset::CC)?;
    if configuration == GONE_32 {
        return Err(AttachError::Gone);
    }
    let configuration = ControllerConfiguration(configuration);
    let found = status(transport)?;
    let mut step = match (configuration.en(), found.rdy()) {
        (true, false) if !found.cfs() => Step::Settling,
        (true, _) => Step::Disabling,
        (false, _) => Step::Disabled,
    };
    if step == Step::Settling {
        // To disable it before it is ready is not allowed; one that never becomes ready is disabled all the same.
        let settled = wait(transport, capabilities, step, |status| status.rdy() || status.cfs());
        if matches!(settled, Err(AttachError::Gone | AttachError::Transport(_))) {
            return settled;
        }
        step = Step::Disabling;
    }
    if step == Step::Disabling {
        let off = configuration.with_en(false).with_shn(0);
        transport.write32(offset::CC, off.0)?;
    }
    wait(transport, capabilities, Step::Disabling, |status| !status.rdy())
}

/// Enables the disabled controller with these admin rings (submission, completion).
pub(crate) fn enable(
    transport: &mut dyn Transport,
    capabilities: &Capabilities,
    [submission, completion]: [Iova; 2],
) -> Result<(), AttachError> {
    let size = |entries: u32| Bits::from_bits(u64::from(entries - 1));
    let attributes = AdminQueueAttributes::default()
        .with_asqs(size(ADMIN_SIZES.submission))
        .with_acqs(size(ADMIN_SIZES.completion));
    transport.write32(offset::AQA, attributes.0)?;
    transport.write64(offset::ASQ, submission.0)?;
    transport.write64(offset::ACQ, completion.0)?;
    let configuration = ControllerConfiguration::default()
        .with_css(capabilities.css)
        .with_mps(Bits::from_bits(u64::from(capabilities.page_log2 - 12)))
        .with_iosqes(SQE_BYTES_LOG2)
        .with_iocqes(CQE_BYTES_LOG2);
    transport.write32(offset::CC, configuration.0)?;
    transport.write32(offset::CC, configuration.with_en(true).0)?;
    let step = Step::Enabling;
    wait(transport, capabilities, step, |status| status.rdy() || status.cfs())?;
    if status(transport)?.cfs() {
        return Err(AttachError::Fatal { step });
    }
    Ok(())
}

/// A normal shutdown: the controller writes its cache. Then it is disabled.
pub(crate) fn shut_down(
    transport: &mut dyn Transport,
    capabilities: &Capabilities,
    entry_microseconds: u32,
) -> Result<(), AttachError> {
    let found = status(transport)?;
    if !found.rdy() || found.cfs() {
        return disable(transport, capabilities);
    }
    let configuration = ControllerConfiguration(transport.read32(offset::CC)?);
    transport.write32(offset::CC, configuration.with_shn(SHN_NORMAL).0)?;
    let said = Duration::from_micros(u64::from(entry_microseconds));
    let limit = Instant::now() + said.clamp(Duration::from_secs(1), SHUTDOWN_WAIT);
    // Ends with the shutdown or its limit; a controller that takes longer is disabled all the same.
    loop {
        let status = status(transport)?;
        if status.shst() == SHST_COMPLETE || status.cfs() || Instant::now() >= limit {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    disable(transport, capabilities)
}

fn wait(
    transport: &mut dyn Transport,
    capabilities: &Capabilities,
    step: Step,
    is_there: impl Fn(ControllerStatus) -> bool,
) -> Result<(), AttachError> {
    let limit = Instant::now() + capabilities.ready_wait;
    // Ends with the step or its limit.
    loop {
        if is_there(status(transport)?) {
            return Ok(());
        }
        if Instant::now() >= limit {
            let milliseconds = capabilities.ready_wait.as_millis();
            return Err(AttachError::TimedOut { step, milliseconds });
        }
        std::thread::sleep(PAUSE);
    }
}

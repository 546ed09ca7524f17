//! From the zone to a running replica and its state.

use sheen_consensus::{RecoveryProgress, RecoveryStep};
use sheen_ports::{Block, Clock, Entropy, Fabric};

use super::{
    admission::Room,
    gateway::OstGateway,
    ports::MdtFailure,
    service::{MdtService, Stage},
    stats::RecoveryPart,
};

impl<B: Block, F: Fabric, C: Clock, E: Entropy, G: OstGateway> MdtService<B, F, C, E, G> {
    /// Takes recovery as far as it goes without waiting. Returns how many steps that were.
    pub(crate) fn recover(&mut self) -> usize {
        let mut steps = 0;
        while let Stage::Recovering { recovery, assembler, reader, any } = &mut self.stage {
            match recovery.poll() {
                Err(error) => self.fail(MdtFailure::Recovery(error)),
                Ok(None) => {
                    let progress = recovery.progress();
                    self.tell_progress(progress);
                    return steps;
                }
                Ok(Some(RecoveryStep::Read { io, lba, blocks })) => {
                    self.device.read(io, lba, blocks)
                }
                Ok(Some(RecoveryStep::Write { io, lba, bytes, durable })) => {
                    self.device.write(io, lba, bytes, durable);
                }
                Ok(Some(RecoveryStep::Flush { io })) => self.device.flush(io),
                Ok(Some(RecoveryStep::SnapshotBytes(bytes))) => {
                    *any = true;
                    assembler.push(&bytes);
                    while let Some(chunk) = assembler.next_chunk() {
                        if let Err(error) = reader.push(&chunk) {
                            self.fail(MdtFailure::Snapshot(error));
                            break;
                        }
                    }
                }
                Ok(Some(RecoveryStep::Ready)) => self.start_group(),
            }
            steps += 1;
        }
        steps
    }

    fn tell_progress(&self, progress: RecoveryProgress) {
        let (part, done, total) = match progress {
            RecoveryProgress::Opening => return,
            RecoveryProgress::Snapshot { bytes, total } => (RecoveryPart::Snapshot, bytes, total),
            RecoveryProgress::Log { bytes } => (RecoveryPart::Log, bytes, 0),
        };
        self.core.stats.tell_recovery(part, done, total);
    }

    fn start_group(&mut self) {
        let failed = Stage::Failed(MdtFailure::Log(None));
        let Stage::Recovering { recovery, reader, any, assembler } =
            std::mem::replace(&mut self.stage, failed)
        else {
            unreachable!("called while recovering")
        };
        self.snapshot.set_bytes(assembler.total());
        if any {
            match reader.finish() {
                Ok(state) => self.core.state = state,
                Err(error) => return self.fail(MdtFailure::Snapshot(error)),
            }
        }
        if let Some(tail) = recovery.log_end() {
            let (lba, marked) = (tail.lba, tail.is_proved());
            match tail.torn() {
                Some(fault) => tracing::warn!(
                    %lba,
                    %fault,
                    marked,
                    "metadata log tail torn: a record that was not acknowledged is gone; an acknowledged one has rotted"
                ),
                None => tracing::info!(%lba, marked, "metadata log read"),
            }
        }
        let group = recovery.finish(self.core.now);
        self.core.admission.set_room(Room::of_area(group.snapshot_bytes_max()));
        self.stage = Stage::Running(Box::new(group));
    }
}

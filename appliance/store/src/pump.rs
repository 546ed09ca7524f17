//! The end of a turn: records gathered become a batch, flushes and checkpoints go on.

use crate::{Command, Store, io::Io};

impl Store {
    /// Ends a turn: sends the records gathered, starts flushes, checkpoints and what waited.
    pub fn pump(&mut self, commands: &mut Vec<Command>) {
        if self.is_stopped() {
            return;
        }
        loop {
            self.issue_ready(commands);
            self.run_granted(commands);
            if !self.send_batches(commands) || self.ready.is_empty() {
                break;
            }
        }
        self.step_switch(commands);
        if self.must_flush() {
            self.flusher.want();
        }
        self.step_discards(commands);
        if self.flusher.is_due() {
            self.flusher.begin(self.log.completed_through(), self.changes.applied);
            self.quarantine.begin_flush();
            self.unflushed_blocks = 0;
            commands.push(Command::Flush { io: Io::Flush.token() });
        }
    }

    /// Sends batches while there may be more in flight; whether any was sent.
    fn send_batches(&mut self, commands: &mut Vec<Command>) -> bool {
        let mut sent = false;
        while self.log.in_flight() < self.limits.journal_writes_max {
            let operations = &mut self.operations;
            let sealed = self.log.seal(|number, record| operations.get_mut(number).record = record);
            let Some(sealed) = sealed else { break };
            let io = Io::Journal { sequence: sealed.position.sequence }.token();
            commands.push(Command::WriteBytes { io, lba: sealed.lba, bytes: sealed.bytes });
            sent = true;
        }
        sent
    }

    /// Whether so much is unflushed, or waits to be freed by a flush, that nobody's asking is waited for.
    fn must_flush(&self) -> bool {
        let most = self.limits.unflushed_blocks_max;
        let freed_most = (self.layout.data_blocks / 32).clamp(256, most.max(256));
        self.unflushed_blocks >= most || self.quarantine.open_blocks() >= freed_most
    }
}

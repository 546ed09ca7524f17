//! Flushes: one in flight; who asks meanwhile shares the next.

/// A flush that completed.
#[derive(Debug)]
pub(crate) struct Flushed {
    /// Every operation of the journal batches up to this is durable.
    pub(crate) durable_sequence: u64,
    /// So is every change up to this number.
    pub(crate) durable_change: u64,
    /// Whether the anchor switch waited for it.
    pub(crate) switch: bool,
}

/// Who waits for which flush.
#[derive(Debug, Default)]
pub(crate) struct Flusher {
    wanted: bool,
    waiting: Vec<u32>,
    switch_waits: bool,
    in_flight: Option<Flushed>,
    in_flight_waiting: Vec<u32>,
    submitted: u64,
}

impl Flusher {
    pub(crate) fn want(&mut self) {
        self.wanted = true;
    }

    /// The operation goes on behind a flush submitted from now on.
    pub(crate) fn wait(&mut self, operation: u32) {
        self.wanted = true;
        self.waiting.push(operation);
    }

    /// So does the anchor switch.
    pub(crate) fn wait_for_switch(&mut self) {
        self.wanted = true;
        self.switch_waits = true;
    }

    pub(crate) fn in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    pub(crate) fn submitted(&self) -> u64 {
        self.submitted
    }

    /// Whether a flush should be submitted now.
    pub(crate) fn is_due(&self) -> bool {
        self.wanted && self.in_flight.is_none()
    }

    /// A flush is submitted, with every batch up to `completed_sequence` complete and every change up to `applied_change`
    /// applied.
    pub(crate) fn begin(&mut self, completed_sequence: u64, applied_change: u64) {
        assert!(self.in_flight.is_none(), "one flush at a time");
        self.in_flight = Some(Flushed {
            durable_sequence: completed_sequence,
            durable_change: applied_change,
            switch: std::mem::take(&mut self.switch_waits),
        });
        self.wanted = false;
        self.submitted += 1;
        std::mem::swap(&mut self.waiting, &mut self.in_flight_waiting);
    }

    /// It completed; `waiting` gets the operations that waited.
    ///
    /// # Panics
    /// When none was in flight.
    pub(crate) fn end(&mut self, waiting: &mut Vec<u32>) -> Flushed {
        waiting.append(&mut self.in_flight_waiting);
        self.in_flight.take().expect("a flush in flight")
    }
}

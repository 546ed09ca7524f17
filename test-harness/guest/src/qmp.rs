//! The emulator's control socket (QEMU Machine Protocol): one JSON object a line, answers and events mixed.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

/// A command is answered within this time, or the emulator is stuck.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// Events kept until somebody asks for them.
const EVENTS_MAX: usize = 256;

/// A connection with the emulator.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
    line: String,
    events: VecDeque<Value>,
}

impl Qmp {
    /// Greets the emulator on the other side of `stream`.
    ///
    /// # Errors
    /// When it does not greet back.
    pub fn greet(stream: UnixStream) -> Result<Self> {
        let reader = BufReader::new(stream.try_clone()?);
        let mut qmp = Self { stream, reader, line: String::new(), events: VecDeque::new() };
        let deadline = Instant::now() + ANSWER_DEADLINE;
        let greeting = qmp.next(deadline)?;
        if greeting.get("QMP").is_none() {
            bail!("not a greeting: {greeting}");
        }
        qmp.call("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Has the emulator do something.
    ///
    /// # Errors
    /// What the emulator says, or that it says nothing.
    pub fn call(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream.write_all(format!("{request}\n").as_bytes())?;
        let deadline = Instant::now() + ANSWER_DEADLINE;
        loop {
            let answer = self.next(deadline).with_context(|| format!("QMP {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QMP {command}: {}", error["desc"].as_str().unwrap_or("refused"));
            }
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
        }
    }

    /// Adds a device described as on the command line (`driver,key=value,…`).
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn add_device(&mut self, described: &str) -> Result<()> {
        let mut properties = Map::new();
        for (place, part) in described.split(',').enumerate() {
            match part.split_once('=') {
                Some((key, value)) => properties.insert(key.into(), typed(value)),
                None if place == 0 => properties.insert("driver".into(), part.into()),
                None => bail!("`{part}` of `{described}` has no value"),
            };
        }
        self.call("device_add", Value::Object(properties)).map(drop)
    }

    /// Adds a drive that keeps its content in `file`.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn add_drive(&mut self, node: &str, file: &Path) -> Result<()> {
        let drive = json!({
            "driver": "file", "node-name": node, "filename": file, "aio": "io_uring",
            "discard": "unmap", "cache": { "no-flush": true },
        });
        self.call("blockdev-add", drive).map(drop)
    }

    /// Lets a device carry out so many commands a second; 0: as many as it can.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn throttle(&mut self, id: &str, commands: u32) -> Result<()> {
        let limits = json!({
            "id": id, "iops": commands, "iops_rd": 0, "iops_wr": 0, "bps": 0, "bps_rd": 0, "bps_wr": 0,
        });
        self.call("block_set_io_throttle", limits).map(drop)
    }

    /// Waits until the device `id` is gone.
    ///
    /// # Errors
    /// When it is not by then.
    pub fn wait_deleted(&mut self, id: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let is_it = |event: &Value| {
            event["event"] == "DEVICE_DELETED" && event["data"]["device"].as_str() == Some(id)
        };
        loop {
            if let Some(place) = self.events.iter().position(is_it) {
                self.events.drain(..=place);
                return Ok(());
            }
            self.next(deadline).with_context(|| format!("{id} is not gone"))?;
        }
    }

    /// The next answer or event. Events are kept as well.
    fn next(&mut self, deadline: Instant) -> Result<Value> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("nothing heard from the emulator in time");
        }
        self.reader.get_ref().set_read_timeout(Some(left))?;
        // A line cut by the time-out goes on where it was cut.
        match self.reader.read_line(&mut self.line) {
            Ok(0) => bail!("the emulator has ended"),
            Ok(_) => {}
            Err(error) => return Err(error).context("reading from the emulator"),
        }
        let value: Value = serde_json::from_str(&self.line)
            .with_context(|| format!("not JSON: {}", self.line.trim()))?;
        self.line.clear();
        if value.get("event").is_some() {
            if self.events.len() == EVENTS_MAX {
                self.events.pop_front();
            }
            self.events.push_back(value.clone());
        }
        Ok(value)
    }
}

/// QMP wants numbers as numbers.
fn typed(text: &str) -> Value {
    text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from)
}

#[cfg(test)]
mod test {
    use super::*;

    fn emulator(script: &'static [&'static str]) -> UnixStream {
        let (here, there) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut there = there;
            let mut lines = BufReader::new(there.try_clone().unwrap()).lines();
            for (place, part) in script.iter().enumerate() {
                if place > 0 {
                    lines.next();
                }
                there.write_all(part.as_bytes()).unwrap();
            }
        });
        here
    }

    #[test]
    fn events_between_a_call_and_its_answer_are_kept() {
        let mut qmp = Qmp::greet(emulator(&[
            "{\"QMP\": {}}\n",
            "{\"return\": {}}\n",
            "{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"a\"}}\n{\"return\": 7}\n",
        ]))
        .unwrap();
        assert_eq!(qmp.call("device_del", json!({})).unwrap(), 7);
        qmp.wait_deleted("a", Duration::from_secs(5)).unwrap();
        assert!(qmp.wait_deleted("a", Duration::from_millis(10)).is_err());
    }

    #[test]
    fn a_refusal_is_an_error_with_its_reason() {
        let script =
            &["{\"QMP\": {}}\n", "{\"return\": {}}\n", "{\"error\": {\"desc\": \"no\"}}\n"];
        let mut qmp = Qmp::greet(emulator(script)).unwrap();
        assert!(qmp.add_device("nvme,id=x,slot=4").unwrap_err().to_string().ends_with("no"));
    }
}

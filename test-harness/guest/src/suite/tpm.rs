//! A node whose data key the machine's TPM keeps: it starts with the TPM, and not with one that has forgotten it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use sheen_conformance::process;

use crate::Context;
use crate::controllers::{bind, unbind};
use crate::node::{Node, check_files, write_files};

const CHECK: &str = "tpm";
/// The kernel's device with its resource manager; the driver of the guest's TPM is built into its kernel.
const DEVICE: &str = "/dev/tpmrm0";
const APPEAR_DEADLINE: Duration = Duration::from_secs(20);
/// TPM2_Clear under the lockout authorization, which is empty: every key of the owner hierarchy is forgotten.
const CLEAR: [u8; 27] = [
    0x80, 0x02, 0, 0, 0, 27, 0, 0, 0x01, 0x26, // tag, size, code
    0x40, 0, 0, 0x0a, // the lockout hierarchy
    0, 0, 0, 9, 0x40, 0, 0, 0x09, 0, 0, 0, 0, 0, // an empty password
];

/// Runs the item.
pub(crate) fn run(context: &mut Context) {
    let address = context.controllers.main().to_owned();
    let report = &mut context.report;
    let mut node = None;
    let started =
        report.case(CHECK, "a device is formatted under the TPM's key and serves", || {
            process::wait_for(DEVICE, APPEAR_DEADLINE, || Path::new(DEVICE).exists())?;
            bind(&address)?;
            let name = format!("nvme:{address}");
            node = Some(Node::start_new(&name, Some(&format!("tpm:{DEVICE}")))?);
            Ok(name)
        });
    let Some(mut node) = node.filter(|_| started) else { return };
    report.case(CHECK, "it starts again, and what was written is there", || {
        write_files(&node.place("data")?)?;
        node.restart()?;
        check_files(&node.place("data")?)
    });
    report.case(CHECK, "a TPM that was cleared is refused as another one", || {
        node.stop()?;
        clear()?;
        let Err(refusal) = node.start() else { bail!("the node serves") };
        let said = refusal.to_string();
        ensure!(said.contains("opens none of the keys of this device"), "it says: {said}");
        Ok(said.rsplit(" | ").next().unwrap_or_default().to_owned())
    });
    report.case(CHECK, "the controller is given back", || unbind(&address).map(|()| String::new()));
}

fn clear() -> Result<()> {
    let mut device = File::options().read(true).write(true).open(DEVICE)?;
    device.write_all(&CLEAR)?;
    let mut answer = [0; 64];
    let length = device.read(&mut answer)?;
    ensure!(answer.get(6..10) == Some(&[0; 4]), "the TPM is not cleared: {:x?}", &answer[..length]);
    Ok(())
}

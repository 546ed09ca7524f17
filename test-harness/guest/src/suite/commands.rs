//! `sheen nvme list`, `show`, `bind` and `unbind`: what they say, what they refuse, and what they survive.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sheen_conformance::process;

use crate::Context;
use crate::controllers::{bind, block_device, listed, unbind};
use crate::program::{Background, SHEEN, sheen_json, sheen_refuses, sheen_succeeds, tool};

const CHECK: &str = "commands";
/// Exit code of a refusal.
const REFUSED: i32 = 3;
/// Times a controller goes there and back.
const ROUNDS: u32 = 5;
/// Steps of time after which a move is killed, and how many.
const KILL_STEP: Duration = Duration::from_millis(25);
const KILLS: u32 = 12;

/// Runs the item.
pub(crate) fn run(context: &mut Context) {
    let main = context.controllers.main().to_owned();
    let spare = context.controllers.spare().to_owned();
    let report = &mut context.report;
    report.case(CHECK, "every controller is listed with driver, group and size", || list(&main));
    report.case(CHECK, "a mounted namespace is refused by name", || mounted(&spare));
    report.case(CHECK, "swap, volumes and open devices are refused by name", || in_use(&spare));
    report.case(CHECK, "partitions and file systems need force", || holds_data(&spare));
    report.case(CHECK, "a wrong address is told, with its exit code", || wrong_addresses(&main));
    report.case(CHECK, "there and back, and the kernel's driver works again", || rounds(&spare));
    report.case(CHECK, "unbind is refused while a program has it", || driven(&spare));
    report.case(CHECK, "a killed move is finished by its repetition", || killed(&spare));
}

fn list(main: &str) -> Result<String> {
    let line = listed(main)?;
    ensure!(line["driver"] == "nvme", "{line}");
    ensure!(line["model"].as_str().is_some_and(|model| model.contains("QEMU")), "{line}");
    ensure!(line["iommu_group"].is_u64(), "{line}");
    ensure!(line["bytes"].as_u64().is_some_and(|bytes| bytes > 1 << 30), "{line}");
    let shown = sheen_json(&["nvme", "show", main])?;
    let namespaces = shown["controller"]["namespaces"].as_array().context("no namespaces")?;
    let sizes: Vec<u64> = namespaces.iter().filter_map(|one| one["block_bytes"].as_u64()).collect();
    ensure!(sizes.contains(&512) && sizes.contains(&4096), "blocks of {sizes:?}");
    let text = sheen_succeeds(&["nvme", "list"])?;
    ensure!(text.contains(main) && text.contains("ADDRESS"), "{text}");
    Ok(format!("2 controllers, blocks of {sizes:?} bytes"))
}

/// Neither plain nor forced does `bind` take it, and it says why.
fn refused_always(address: &str, says: &str) -> Result<()> {
    sheen_refuses(&["nvme", "bind", address], REFUSED, says)?;
    sheen_refuses(&["nvme", "bind", address, "--force"], REFUSED, says)?;
    ensure!(listed(address)?["driver"] == "nvme", "it was taken all the same");
    Ok(())
}

fn name_of(device: &Path) -> String {
    device.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn mounted(address: &str) -> Result<String> {
    let device = block_device(address, 1)?;
    let shown = device.display();
    tool(&format!("mkfs.ext4 -q -F {shown}"))?;
    tool(&format!("mount -t ext4 {shown} /mnt"))?;
    let refusal = refused_always(address, &format!("{} is mounted at /mnt", name_of(&device)));
    tool("umount /mnt")?;
    refusal.map(|()| "2 refusals".to_owned())
}

fn in_use(address: &str) -> Result<String> {
    let device = block_device(address, 1)?;
    let (shown, name) = (device.display(), name_of(&device));
    tool(&format!("mkswap {shown}"))?;
    tool(&format!("swapon {shown}"))?;
    let refusal = refused_always(address, &format!("{name} is active swap space"));
    tool(&format!("swapoff {shown}"))?;
    refusal?;
    tool("modprobe dm-mod")?;
    let volume = format!("echo 0 1000 linear {shown} 0 | dmsetup create --noudevsync volume");
    process::run(Command::new("sh").args(["-c", &volume]), KILL_STEP * 1000)?;
    let refusal = refused_always(address, &format!("{name} is part of dm-0 (volume)"));
    tool("dmsetup remove --noudevsync volume")?;
    refusal?;
    let program = Background::start(&format!("sleep 1000 3<{shown}"))?;
    let opened = format!("{name} is opened by process {}", program.id());
    process::wait_for("the program that opens it", Duration::from_secs(5), || {
        listed(address).is_ok_and(|line| line["uses"].to_string().contains(&opened))
    })?;
    refused_always(address, &opened)?;
    Ok("6 refusals".to_owned())
}

fn holds_data(address: &str) -> Result<String> {
    let device = block_device(address, 1)?;
    let (shown, name) = (device.display(), name_of(&device));
    tool(&format!("mkfs.ext4 -q -F {shown}"))?;
    sheen_refuses(
        &["nvme", "bind", address],
        REFUSED,
        &format!("{name} holds a file system (ext2"),
    )?;
    tool(&format!("mkswap {shown}"))?;
    sheen_refuses(&["nvme", "bind", address], REFUSED, &format!("{name} holds swap space"))?;
    partition(&device)?;
    let says = format!("{name} has partitions ({name}p1)");
    sheen_refuses(&["nvme", "bind", address], REFUSED, &says)?;
    bind(address)?;
    unbind(address)?;
    let device = block_device(address, 1)?;
    File::options().write(true).open(device)?.write_all_at(&[0; 8192], 0)?;
    // The kernel forgets partitions only when it looks again.
    bind(address)?;
    unbind(address)?;
    block_device(address, 1)?;
    ensure!(listed(address)?["uses"].as_array().is_some_and(Vec::is_empty), "still used");
    Ok("3 refusals, forced".to_owned())
}

fn partition(device: &Path) -> Result<()> {
    let script = format!("echo ,, | sfdisk -q --wipe always {}", device.display());
    process::run(Command::new("sh").args(["-c", &script]), Duration::from_secs(30)).map(drop)
}

fn wrong_addresses(main: &str) -> Result<String> {
    sheen_refuses(&["nvme", "bind", "0000:7f:00.0"], 1, "there is no PCI function")?;
    sheen_refuses(&["nvme", "show", "0000:00:1f.2"], 1, "is not an NVMe controller")?;
    sheen_refuses(&["nvme", "bind", "nvme0"], 2, "not a PCI address")?;
    let help = sheen_succeeds(&["nvme", "bind", "--help"])?;
    ensure!(help.contains("sheen nvme unbind"), "the help does not teach");
    ensure!(listed(main)?["driver"] == "nvme", "something moved");
    Ok("3 errors".to_owned())
}

fn rounds(address: &str) -> Result<String> {
    for round in 0..ROUNDS {
        sheen_succeeds(&["nvme", "bind", address])?;
        ensure!(listed(address)?["driver"] == "vfio-pci", "round {round}: not bound");
        sheen_succeeds(&["nvme", "bind", address])?;
        sheen_succeeds(&["nvme", "unbind", address])?;
        sheen_succeeds(&["nvme", "unbind", address])?;
        works(&block_device(address, 1)?, round)?;
    }
    Ok(format!("{ROUNDS} rounds"))
}

/// The kernel's driver stores and gives back.
pub(crate) fn works(device: &Path, seed: u32) -> Result<()> {
    let pattern: Vec<u8> = seed.to_le_bytes().into_iter().cycle().take(64 << 10).collect();
    let file = File::options().read(true).write(true).open(device)?;
    file.write_all_at(&pattern, 1 << 20)?;
    file.sync_all()?;
    let mut back = vec![0; pattern.len()];
    file.read_exact_at(&mut back, 1 << 20)?;
    ensure!(back == pattern, "{}: reads something else than was written", device.display());
    Ok(())
}

fn driven(address: &str) -> Result<String> {
    bind(address)?;
    let group = listed(address)?["iommu_group"].as_u64().context("no group")?;
    let program = Background::start(&format!("sleep 1000 3<>/dev/vfio/{group}"))?;
    let says = format!("is driven by process {}", program.id());
    process::wait_for("the program that opens it", Duration::from_secs(5), || {
        listed(address).is_ok_and(|line| line["uses"].to_string().contains("driven by"))
    })?;
    sheen_refuses(&["nvme", "unbind", address], REFUSED, &says)?;
    drop(program);
    unbind(address)?;
    Ok("1 refusal".to_owned())
}

fn killed(address: &str) -> Result<String> {
    let mut cut_short = 0;
    for number in 0..KILLS {
        for (command, driver) in [("bind", "vfio-pci"), ("unbind", "nvme")] {
            let mut child = Command::new(SHEEN)
                .args(["nvme", command, address])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            std::thread::sleep(KILL_STEP * number);
            process::kill_nine(&mut child)?;
            if listed(address)?["driver"] != driver {
                cut_short += 1;
            }
            sheen_succeeds(&["nvme", command, address])?;
            ensure!(listed(address)?["driver"] == driver, "{command} is not finished");
        }
    }
    works(&block_device(address, 1)?, KILLS)?;
    Ok(format!("{} moves killed, {cut_short} of them before their end", KILLS * 2))
}

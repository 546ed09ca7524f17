//! The model in another process, reached by a vfio-user client that is not ours.

use std::{
    os::fd::AsRawFd as _,
    path::Path,
    time::{Duration, Instant},
};

use nix::{
    sys::memfd::{MFdFlags, memfd_create},
    unistd::ftruncate,
};
use sheen_dma::{DeviceView, Registers};
use sheen_nvme_model::process::ModelProcess;
use vfio_user::Client;

use super::by_hand::CC;

const BAR0: u32 = 0;
const CONFIG: u32 = 7;
const IOVA: u64 = 1 << 32;
const PATIENCE: Duration = Duration::from_secs(20);

fn read32(client: &mut Client, offset: u64) -> u32 {
    let mut bytes = [0; 4];
    client.region_read(BAR0, offset, &mut bytes).unwrap();
    u32::from_le_bytes(bytes)
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "waited for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn another_process_serves_registers_doorbells_and_dma() {
    let folder = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_sheen-nvme-model"));
    let socket = folder.path().join("model");
    let process = ModelProcess::start(program, &socket, &["--size", "8"]).unwrap();
    let mut client = Client::new(process.socket()).unwrap();
    let mut class = [0; 4];
    client.region_read(CONFIG, 8, &mut class).unwrap();
    assert_eq!(class[1..], [2, 8, 1]);

    let file = memfd_create(c"host", MFdFlags::MFD_CLOEXEC).unwrap();
    ftruncate(&file, 1 << 20).unwrap();
    client.dma_map(0, IOVA, 1 << 20, file.as_raw_fd()).unwrap();
    let memory = DeviceView::map(&file, 0, 1 << 20).unwrap();
    let mut write = |offset, bytes: &[u8]| client.region_write(BAR0, offset, bytes).unwrap();
    write(0x24, &0x0007_0007_u32.to_le_bytes());
    write(0x28, &IOVA.to_le_bytes());
    write(0x30, &(IOVA + 4096).to_le_bytes());
    write(0x14, &CC.to_le_bytes());
    wait_for("ready", || read32(&mut client, 0x1c) == 1);

    let region = client.region(BAR0).unwrap();
    let area = region.sparse_areas[0];
    assert_eq!((area.offset, region.size % 4096), (4096, 0));
    let fd = region.file_offset.as_ref().unwrap();
    let bytes = usize::try_from(area.size).unwrap();
    let doorbells = Registers::map(fd.file(), fd.start() + area.offset, bytes).unwrap();
    // Identify controller into the third page.
    memory.store64(0, 0x06 | (7 << 16)).unwrap();
    memory.store64(24, IOVA + 8192).unwrap();
    memory.store64(40, 1).unwrap();
    doorbells.write32(0, 1);
    wait_for("a completion", || memory.load64(4096 + 8).unwrap() >> 48 & 1 == 1);
    let mut model = [0; 16];
    memory.read(8192 + 24, &mut model).unwrap();
    assert_eq!(&model, b"Sheen NVMe model");
    client.dma_unmap(IOVA, 1 << 20).unwrap();
}

#[test]
fn a_second_client_meets_a_fresh_controller() {
    let folder = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_sheen-nvme-model"));
    let socket = folder.path().join("model");
    let process = ModelProcess::start(program, &socket, &["--size", "8"]).unwrap();
    let mut first = Client::new(process.socket()).unwrap();
    first.region_write(BAR0, 0x28, &7_u64.to_le_bytes()).unwrap();
    drop(first);
    let mut second = Client::new(process.socket()).unwrap();
    assert_eq!(read32(&mut second, 0x28), 0);
}

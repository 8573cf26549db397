//! Telling a block device that nothing on it is of use any more.

use anyhow::Result;
use envoyfs_engine::device::Device;
use indicatif::ProgressBar;

/// A device may take long for one request, and the bar should move.
pub const STEP_BYTES: u64 = 1 << 30;

/// Discards the whole device; returns the bytes discarded: 0 where it is not supported, which is no error.
pub fn discard(device: &dyn Device, bar: &ProgressBar) -> Result<u64> {
    let size = device.geometry().size_bytes;
    let mut done = 0;
    while done < size {
        let step = STEP_BYTES.min(size - done);
        match device.discard(done, step) {
            Ok(()) => done += step,
            Err(error) if error.is_unsupported() => break,
            Err(error) => return Err(error.into()),
        }
        bar.set_position(done);
    }
    bar.finish_and_clear();
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoyfs_engine::device::{DeviceImage, SimulatedDevice};

    #[test]
    fn every_byte_is_discarded_also_of_an_odd_size() {
        let size = STEP_BYTES + (3 << 20);
        let mut image = DeviceImage::new(size);
        for at in [0, STEP_BYTES - 512, STEP_BYTES, size - 512] {
            image.write(at, &[7; 512]);
        }
        let device = SimulatedDevice::from_image(image, 512, 1);
        assert_eq!(discard(&device, &ProgressBar::hidden()).unwrap(), size);
        for at in [0, STEP_BYTES - 512, STEP_BYTES, size - 512] {
            let mut sector = envoyfs_engine::device::AlignedBuf::zeroed(512);
            device.read(at, &mut sector).unwrap();
            assert!(sector.as_slice().iter().all(|byte| *byte == 0), "{at}");
        }
    }
}

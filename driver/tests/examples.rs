//! The examples do what they say.

#[path = "../examples/checksum.rs"]
#[expect(dead_code, reason = "its `main` is for the command line")]
mod checksum;

#[tokio::test(flavor = "current_thread")]
async fn checksum_is_that_of_every_byte_of_the_namespace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    // Not a multiple of what one command reads.
    let data: Vec<u8> =
        (0..(33 << 20) / 4_u32).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    std::fs::write(&path, &data).unwrap();
    for block in [512, 4096] {
        let device = format!("emulated:size={},block={block},file={}", data.len(), path.display());
        assert_eq!(checksum::checksum(&device).await.unwrap(), crc32c::crc32c(&data));
    }
}

#[tokio::test(flavor = "current_thread")]
async fn checksum_of_what_is_no_device_says_so() {
    let error = checksum::checksum("nvme0").await.unwrap_err().to_string();
    assert!(error.contains("is not a device"), "{error}");
}

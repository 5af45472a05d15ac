//! Notices that this machine's addresses change: another network, another uplink.

use std::{net::IpAddr, time::Duration};

use tokio::time::sleep;

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Ready when the addresses differ from those at the first call's time.
pub(super) async fn changed() {
    let Some(before) = addresses() else { return std::future::pending().await };
    loop {
        sleep(LOOK_INTERVAL).await;
        if addresses().is_some_and(|now| now != before) {
            return;
        }
    }
}

/// Whether an address is on this machine; where that cannot be told, it is taken to be.
pub(super) fn has(address: IpAddr) -> bool {
    addresses().is_none_or(|addresses| addresses.contains(&address.to_canonical()))
}

fn addresses() -> Option<Vec<IpAddr>> {
    let interfaces = crate::dial::interface_addresses().ok()?;
    let mut addresses: Vec<_> = interfaces.into_iter().map(|one| one.address).collect();
    addresses.sort_unstable();
    addresses.dedup();
    Some(addresses)
}

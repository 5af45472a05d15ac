//! Notices that this machine's addresses change: another network, another uplink.

use std::{net::IpAddr, time::Duration};

use tokio::time::sleep;

/// How often it is looked.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Ready when the addresses differ from those at the first call's time.
pub(super) async fn changed() {
    differ(LOOK_INTERVAL, addresses).await;
}

async fn differ(every: Duration, mut addresses: impl FnMut() -> Option<Vec<IpAddr>>) {
    let Some(before) = addresses() else { return std::future::pending().await };
    loop {
        sleep(every).await;
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::time::timeout;

    use super::*;

    fn at(last: u8) -> Vec<IpAddr> {
        vec![Ipv4Addr::new(10, 0, 0, last).into()]
    }

    /// At which look a change is noticed that has happened before the fourth; `None`: at none.
    async fn noticed(before: Option<Vec<IpAddr>>, after: Option<Vec<IpAddr>>) -> Option<usize> {
        let mut looks = 0;
        let look = || {
            looks += 1;
            if looks < 4 { before.clone() } else { after.clone() }
        };
        let differ = differ(Duration::from_millis(1), look);
        timeout(Duration::from_millis(100), differ).await.ok().map(|()| looks)
    }

    #[tokio::test]
    async fn other_addresses_are_noticed_at_the_next_look() {
        for (before, after) in [(at(1), at(2)), (at(1), vec![]), (vec![], at(1))] {
            assert_eq!(noticed(Some(before), Some(after)).await, Some(4));
        }
    }

    #[tokio::test]
    async fn what_stays_or_cannot_be_read_is_no_change() {
        for (before, after) in
            [(Some(at(1)), Some(at(1))), (Some(at(1)), None), (None, Some(at(1)))]
        {
            assert_eq!(noticed(before, after).await, None);
        }
    }
}

//! How much of a stream may be under way.
//!
//! Each direction of a stream begins with [`START`] credits at its sender. An item [costs](cost) one
//! credit and one more for each full 16 KiB of it. A sender sends while it has more than nothing, so
//! that an item of any size can travel, and may owe afterwards. The receiver grants credits with
//! [`Credit`](crate::FrameKind::Credit) frames as its consumer takes the items, in batches of at
//! least half the start balance. What a slow consumer makes both sides hold is therefore bounded:
//! about 1 MiB and one item.
//!
//! Both sides of both languages keep the same two numbers. No lock, no I/O; the rules are tested
//! here.

use crate::frame::FrameError;

/// Credits of each direction at the beginning of a stream.
pub const START: u32 = 64;

/// Bytes of an item that cost a credit more.
pub const STEP: usize = 16 * 1024;

/// What an item of `len` bytes costs: `1 + len / 16384`.
pub fn cost(len: usize) -> u32 {
    u32::try_from(len / STEP).unwrap_or(u32::MAX).saturating_add(1)
}

/// The sender's side of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendCredit {
    balance: i64,
}

impl Default for SendCredit {
    fn default() -> Self {
        Self { balance: i64::from(START) }
    }
}

impl SendCredit {
    /// Whether an item may be sent now.
    pub fn can_send(&self) -> bool {
        self.balance > 0
    }

    /// An item of `len` bytes was sent.
    pub fn sent(&mut self, len: usize) {
        self.balance = self.balance.saturating_sub(i64::from(cost(len)));
    }

    /// The receiver granted more.
    pub fn granted(&mut self, amount: u32) {
        self.balance = self.balance.saturating_add(i64::from(amount));
    }
}

/// The receiver's side of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveCredit {
    /// What the sender has, as far as a receiver can know: grants that are under way included.
    balance: i64,
    /// Taken by the consumer and not granted yet.
    owed: u32,
}

impl Default for ReceiveCredit {
    fn default() -> Self {
        Self { balance: i64::from(START), owed: 0 }
    }
}

impl ReceiveCredit {
    /// An item of `len` bytes arrived on `stream`.
    ///
    /// # Errors
    /// [`FrameError::OverSent`] if the sender had no credit for it.
    pub fn arrived(&mut self, stream: u32, len: usize) -> Result<(), FrameError> {
        if self.balance <= 0 {
            return Err(FrameError::OverSent { stream });
        }
        self.balance = self.balance.saturating_sub(i64::from(cost(len)));
        Ok(())
    }

    /// The consumer took an item of `len` bytes. Gives the grant that is to be sent now, if it is
    /// time for one.
    pub fn taken(&mut self, len: usize) -> Option<u32> {
        self.owed = self.owed.saturating_add(cost(len));
        if self.owed < START / 2 {
            return None;
        }
        let grant = std::mem::take(&mut self.owed);
        self.balance = self.balance.saturating_add(i64::from(grant));
        Some(grant)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_item_costs_by_its_length() {
        let costs = [0, 16_383, 16_384, 65_536, 1 << 20].map(cost);
        assert_eq!(costs, [1, 1, 2, 5, 65]);
    }

    #[test]
    fn a_sender_may_owe_once() {
        let (mut sender, mut receiver) = (SendCredit::default(), ReceiveCredit::default());
        sender.sent(16 << 20);
        assert!(!sender.can_send());
        receiver.arrived(1, 16 << 20).unwrap();
        assert_eq!(receiver.arrived(1, 0), Err(FrameError::OverSent { stream: 1 }));
        // Taking it pays for all of it at once.
        sender.granted(receiver.taken(16 << 20).unwrap());
        assert_eq!(sender, SendCredit::default());
    }

    #[test]
    fn grants_come_in_batches() {
        let mut receiver = ReceiveCredit::default();
        let grants: Vec<_> = (0..64)
            .map(|_| {
                receiver.arrived(1, 100).unwrap();
                receiver.taken(100)
            })
            .collect();
        assert_eq!(grants.iter().flatten().collect::<Vec<_>>(), [&32, &32]);
    }

    proptest! {
        /// Whatever the order of sending, taking and granting: nothing is ever over-sent, what is
        /// held is bounded, and a consumer that takes everything never stops the sender for good.
        #[test]
        fn nobody_is_stuck_and_nobody_holds_much(
            steps in prop::collection::vec((0usize..3, 0usize..200_000), 0..400),
        ) {
            let (mut sender, mut receiver) = (SendCredit::default(), ReceiveCredit::default());
            let (mut held, mut grants) = (VecDeque::new(), VecDeque::new());
            for (step, len) in steps {
                match step {
                    0 if sender.can_send() => {
                        sender.sent(len);
                        prop_assert_eq!(receiver.arrived(1, len), Ok(()));
                        held.push_back(len);
                    }
                    1 => grants.extend(held.pop_front().and_then(|len| receiver.taken(len))),
                    _ => grants.drain(..).for_each(|grant| sender.granted(grant)),
                }
                let bytes: usize = held.iter().sum();
                prop_assert!(bytes <= START as usize * STEP + 200_000);
            }
            grants.extend(held.drain(..).filter_map(|len| receiver.taken(len)));
            grants.drain(..).for_each(|grant| sender.granted(grant));
            prop_assert!(sender.can_send());
        }
    }
}

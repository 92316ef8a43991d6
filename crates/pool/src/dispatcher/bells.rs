//! Whom to wake after a change: places, each once, in the order in which they were named.
//!
//! Every call names one when it comes. So the first needs no allocation, and hardly ever is there a
//! second.

/// The places of connections that have something to do.
#[derive(Debug, Default)]
pub(crate) struct Bells {
    first: Option<usize>,
    more: Vec<usize>,
}

impl Bells {
    pub(super) fn add(&mut self, place: usize) {
        match self.first {
            None => self.first = Some(place),
            Some(first) if first == place || self.more.contains(&place) => {}
            Some(_) => self.more.push(place),
        }
    }

    /// This one need not be woken.
    pub(super) fn spare(&mut self, place: usize) {
        self.more.retain(|&named| named != place);
        if self.first == Some(place) {
            self.first = (!self.more.is_empty()).then(|| self.more.remove(0));
        }
    }
}

impl IntoIterator for Bells {
    type Item = usize;
    type IntoIter = std::iter::Chain<std::option::IntoIter<usize>, std::vec::IntoIter<usize>>;

    fn into_iter(self) -> Self::IntoIter {
        self.first.into_iter().chain(self.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_once_and_may_be_spared() {
        let named = |added: &[usize], spared: &[usize]| {
            let mut bells = Bells::default();
            added.iter().for_each(|&place| bells.add(place));
            spared.iter().for_each(|&place| bells.spare(place));
            bells.into_iter().collect::<Vec<_>>()
        };
        assert!(named(&[], &[3]).is_empty());
        assert_eq!(named(&[3, 3, 1, 3, 1, 2], &[]), [3, 1, 2]);
        assert_eq!(named(&[3, 1, 2], &[1, 7]), [3, 2]);
        assert_eq!(named(&[3, 1, 2], &[3]), [1, 2]);
        assert!(named(&[3], &[3]).is_empty());
    }
}

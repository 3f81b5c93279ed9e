//! Rows of numbers in few octets: each number as its distance from the one in the row before.

/// A list of rows that mostly differ by little from one to the next: about an octet for each number. It grows and shrinks
/// at its end, as a `Vec` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed<const N: usize> {
    octets: Vec<u8>,
    /// Zeros, if there is none.
    last: [i64; N],
    len: usize,
}

impl<const N: usize> Default for Packed<N> {
    fn default() -> Packed<N> {
        Packed { octets: Vec::new(), last: [0; N], len: 0 }
    }
}

impl<const N: usize> Packed<N> {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The last row.
    pub fn last(&self) -> Option<[i64; N]> {
        (self.len > 0).then_some(self.last)
    }

    /// Adds a row at the end.
    pub fn push(&mut self, row: [i64; N]) {
        for (number, before) in row.iter().zip(self.last) {
            write(&mut self.octets, number.wrapping_sub(before));
        }
        self.last = row;
        self.len += 1;
    }

    /// Takes the last row off.
    pub fn pop(&mut self) -> Option<[i64; N]> {
        let row = self.last()?;
        for number in self.last.iter_mut().rev() {
            *number = number.wrapping_sub(take_last(&mut self.octets));
        }
        self.len -= 1;
        Some(row)
    }

    /// All rows, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = [i64; N]> {
        let (mut rest, mut row) = (&self.octets[..], [0i64; N]);
        (0..self.len).map(move |_| {
            for number in &mut row {
                *number = number.wrapping_add(take_first(&mut rest));
            }
            row
        })
    }
}

impl<const N: usize> FromIterator<[i64; N]> for Packed<N> {
    fn from_iter<I: IntoIterator<Item = [i64; N]>>(rows: I) -> Packed<N> {
        let mut packed = Packed::default();
        rows.into_iter().for_each(|row| packed.push(row));
        packed.octets.shrink_to_fit();
        packed
    }
}

/// Marks each octet of a number but the first, so that it can be read from either end.
const GOES_ON: u8 = 0x80;

/// In groups of seven bits, the highest first. The sign is the lowest bit, so that what is small is short.
fn write(octets: &mut Vec<u8>, number: i64) {
    let bits = ((number << 1) ^ (number >> 63)) as u64;
    let groups = (u64::BITS - bits.leading_zeros()).div_ceil(7).max(1);
    octets.extend((0..groups).rev().map(|group| {
        let mark = if group + 1 < groups { GOES_ON } else { 0 };
        (bits >> (7 * group)) as u8 & !GOES_ON | mark
    }));
}

fn read(octets: &[u8]) -> i64 {
    let bits = octets.iter().fold(0u64, |bits, octet| bits << 7 | u64::from(octet & !GOES_ON));
    (bits >> 1) as i64 ^ -((bits & 1) as i64)
}

fn take_first(octets: &mut &[u8]) -> i64 {
    let more = octets.iter().skip(1).take_while(|octet| **octet & GOES_ON != 0).count();
    let (number, rest) = octets.split_at(octets.len().min(1 + more));
    *octets = rest;
    read(number)
}

fn take_last(octets: &mut Vec<u8>) -> i64 {
    let at = octets.iter().rposition(|octet| octet & GOES_ON == 0).unwrap_or(0);
    let number = read(&octets[at..]);
    octets.truncate(at);
    number
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_differs_by_little_takes_an_octet_for_each_number() {
        let packed: Packed<2> = (0..1000).map(|n| [2 * n, 2 * n + 1]).collect();
        assert_eq!(packed.octets.len(), 2000);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_vec(
            steps in prop::collection::vec(prop_oneof![
                3 => any::<[i64; 3]>().prop_map(Some),
                3 => prop::array::uniform3(-70i64..70).prop_map(Some),
                2 => Just(None),
            ], 0..60),
        ) {
            let (mut packed, mut twin) = (Packed::<3>::default(), Vec::new());
            for step in steps {
                match step {
                    Some(row) => { packed.push(row); twin.push(row); }
                    None => prop_assert_eq!(packed.pop(), twin.pop()),
                }
                prop_assert_eq!((packed.len(), packed.last()), (twin.len(), twin.last().copied()));
            }
            prop_assert_eq!(packed.iter().collect::<Vec<_>>(), twin);
        }
    }
}

//! The bytes of a token, read strictly.
//!
//! Biscuit is written in Protocol Buffers, which know many spellings of one message: fields in another order, unknown
//! fields, long varints, repeated fields. Here one spelling is read, the one that the Biscuit library writes for a
//! sealed token of one block, and for one that is open (schema:
//! <https://github.com/eclipse-biscuit/biscuit/blob/main/schema.proto>):
//!
//! ```text
//! Biscuit     = rootKeyId:1 authority:2 blocks:3* proof:4
//! SignedBlock = block:1 nextKey:2 signature:3
//! PublicKey   = algorithm:1 (Ed25519) key:2 (32 bytes)
//! Proof       = finalSignature:2 (64 bytes), and no blocks | nextSecret:1 (32 bytes)
//! Block       = symbols:1* version:3 facts:4* checks:6*
//! ```
//!
//! A fault in this reader can refuse a good token, but not admit a bad one: the library reads the same bytes again and
//! checks the signatures, and the contents must equal what mint would write.

use biscuit_auth::datalog::SymbolTable;

use crate::error::TokenError;
use crate::narrow::MAX_NARROWINGS;

/// The block version (Datalog 3.0) that every Biscuit library since 2022 reads.
pub(crate) const BLOCK_VERSION: u32 = 3;

const VARINT_1: u8 = 0x08;
const VARINT_2: u8 = 0x10;
const VARINT_3: u8 = 0x18;
const VARINT_6: u8 = 0x30;
const BYTES_1: u8 = 0x0a;
const BYTES_2: u8 = 0x12;
const BYTES_3: u8 = 0x1a;
const BYTES_4: u8 = 0x22;
const BYTES_5: u8 = 0x2a;
const BYTES_6: u8 = 0x32;

#[derive(Clone, Copy)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Steps over `tag` (field number and wire type) if it comes next.
    fn tag(&mut self, tag: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[tag])?;
        Some(())
    }

    fn next_is(self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// A varint in its shortest form.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return (*byte != 0 || shift == 0).then_some(value);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn field(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.tag(tag)?;
        self.bytes()
    }

    fn message(&mut self, tag: u8) -> Option<Self> {
        self.field(tag).map(Reader)
    }

    fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// A token, signatures unchecked.
pub(crate) struct Envelope<'a> {
    pub root_key_id: u32,
    /// The authority block.
    pub block: &'a [u8],
    /// What was appended to it, if it is not sealed.
    pub appended: Vec<&'a [u8]>,
    pub sealed: bool,
}

impl<'a> Envelope<'a> {
    /// Reads the one spelling.
    ///
    /// # Errors
    /// [`TokenError::NotOurs`] for what is recognizably a Biscuit of another form, otherwise [`TokenError::Malformed`].
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, TokenError> {
        const MALFORMED: TokenError = TokenError::Malformed("it is not a token in its one encoding");

        let mut token = Reader(bytes);
        if token.next_is(BYTES_2) {
            return Err(TokenError::NotOurs("it names no root key"));
        }
        let root_key_id = token.tag(VARINT_1).and_then(|()| token.varint()).ok_or(MALFORMED)?;
        let root_key_id = u32::try_from(root_key_id).map_err(|_| MALFORMED)?;

        let block = signed(token.message(BYTES_2).ok_or(MALFORMED)?, MALFORMED)?;
        let mut appended = Vec::new();
        while token.next_is(BYTES_3) {
            if appended.len() == MAX_NARROWINGS {
                return Err(TokenError::NotOurs("more blocks were appended to it than may be"));
            }
            let another = TokenError::NotOurs("blocks were appended to it");
            appended.push(signed(token.message(BYTES_3).ok_or(MALFORMED)?, another)?);
        }
        let proof = token.message(BYTES_4).ok_or(MALFORMED)?;
        token.end().ok_or(MALFORMED)?;
        let sealed = !proof.next_is(BYTES_1);
        let (tag, length) = if sealed { (BYTES_2, 64) } else { (BYTES_1, 32) };
        exactly(proof, tag, length).ok_or(MALFORMED)?;
        if sealed && !appended.is_empty() {
            return Err(TokenError::NotOurs("blocks were appended to it"));
        }
        Ok(Self { root_key_id, block, appended, sealed })
    }
}

/// The contents of a signed block; `otherwise` if it is not one.
fn signed(mut signed: Reader<'_>, otherwise: TokenError) -> Result<&[u8], TokenError> {
    let Some(block) = signed.field(BYTES_1) else { return Err(otherwise) };
    let Some(mut next_key) = signed.message(BYTES_2) else { return Err(otherwise) };
    // Signatures of P-256, the other algorithm, can be changed by anyone without becoming invalid.
    if next_key.tag(VARINT_1).and_then(|()| next_key.varint()) != Some(0) {
        return Err(TokenError::NotOurs("its next key is not an Ed25519 key"));
    }
    if exactly(next_key, BYTES_2, 32).is_none() || signed.field(BYTES_3).is_none_or(|signature| signature.len() != 64) {
        return Err(otherwise);
    }
    match (signed.end(), otherwise) {
        (Some(()), _) => Ok(block),
        (None, appended @ TokenError::NotOurs(_)) => Err(appended),
        (None, _) => Err(TokenError::NotOurs("its block is signed in another way")),
    }
}

fn exactly(mut message: Reader<'_>, tag: u8, length: usize) -> Option<()> {
    message.field(tag).filter(|bytes| bytes.len() == length)?;
    message.end()
}

/// A constant in a fact, of the kinds that claims use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Term<'a> {
    Int(i64),
    Str(&'a str),
    Bytes(&'a [u8]),
    Bool(bool),
}

/// The facts of an authority block, in the order in which they are written. Checks are left unread.
pub(crate) struct Facts<'a> {
    symbols: SymbolTable,
    facts: Vec<Reader<'a>>,
}

impl<'a> Facts<'a> {
    /// Reads a block; `None` if it holds anything but symbols, facts and checks, or has another version.
    pub(crate) fn read(block: &'a [u8]) -> Option<Self> {
        let mut block = Reader(block);
        let mut symbols = Vec::new();
        while block.next_is(BYTES_1) {
            symbols.push(String::from_utf8(block.field(BYTES_1)?.to_vec()).ok()?);
        }
        if block.tag(VARINT_3).and_then(|()| block.varint()) != Some(BLOCK_VERSION.into()) {
            return None;
        }
        let mut facts = Vec::new();
        while block.next_is(BYTES_4) {
            let mut fact = block.message(BYTES_4)?;
            facts.push(fact.message(BYTES_1)?);
            fact.end()?;
        }
        while block.next_is(BYTES_6) {
            block.field(BYTES_6)?;
        }
        block.end()?;
        // The table adds the symbols that every library predefines.
        Some(Self { symbols: SymbolTable::from(symbols).ok()?, facts })
    }

    /// The symbols that every later block goes on from.
    pub(crate) const fn symbols(&self) -> &SymbolTable {
        &self.symbols
    }

    /// Each fact as predicate and terms; `None` in place of one that claims do not use.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<(&str, Vec<Term<'_>>)>> {
        self.facts.iter().map(|fact| self.fact(*fact))
    }

    fn fact(&self, mut predicate: Reader<'a>) -> Option<(&str, Vec<Term<'_>>)> {
        predicate.tag(VARINT_1)?;
        let name = self.symbols.get_symbol(predicate.varint()?)?;
        let mut terms = Vec::with_capacity(2);
        while predicate.end().is_none() {
            let mut term = predicate.message(BYTES_2)?;
            terms.push(if term.tag(VARINT_2).is_some() {
                Term::Int(term.varint()?.cast_signed())
            } else if term.tag(VARINT_3).is_some() {
                Term::Str(self.symbols.get_symbol(term.varint()?)?)
            } else if term.tag(VARINT_6).is_some() {
                Term::Bool(term.varint()? == 1)
            } else {
                Term::Bytes(term.field(BYTES_5)?)
            });
            term.end()?;
        }
        Some((name, terms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_varint_has_one_spelling() {
        let read = |bytes: &[u8]| {
            let mut reader = Reader(bytes);
            reader.varint().filter(|_| reader.end().is_some())
        };
        assert_eq!(read(&[0]), Some(0));
        assert_eq!(read(&[0xac, 0x02]), Some(300));
        let mut most = [0xff; 10];
        most[9] = 1;
        assert_eq!(read(&most), Some(u64::MAX));
        most[9] = 2;
        for other in [&[0x80, 0][..], &[0xac, 0x82, 0], &[0x80], &[], &most, &[0xff; 11]] {
            assert_eq!(read(other), None, "{other:?}");
        }
    }
}

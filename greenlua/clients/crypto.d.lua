---@meta greenlua.crypto

---Random bytes, UUIDs, digests, encodings and password hashes. See docs/crypto.md.
---@class greenlua.Crypto
local crypto = {}

---@alias greenlua.Digest
---| "sha224"|"sha256"|"sha384"|"sha512"
---| "sha3_224"|"sha3_256"|"sha3_384"|"sha3_512"
---| "blake2b"|"blake2s"
---| "sha1"|"md5"
---@alias greenlua.Encoding "hex"|"base64"|"base64url"|"raw"

---A new UUID as text: version 4 is random; version 7 begins with the time, and each is greater than the last.
---@param version? 4|7
---@return string
function crypto.uuid(version) end

---Bytes that nobody can guess.
---@param count integer 1 to 65536
---@return string
function crypto.random_bytes(count) end

---The digest of a text of up to 16 MiB.
---@param algorithm greenlua.Digest
---@param text string
---@param encoding? greenlua.Encoding `"hex"` by default
---@return string
function crypto.hash(algorithm, text, encoding) end

---The HMAC (RFC 2104) of a text of up to 16 MiB.
---@param algorithm greenlua.Digest
---@param key string
---@param text string
---@param encoding? greenlua.Encoding `"hex"` by default
---@return string
function crypto.hmac(algorithm, key, text, encoding) end

---Whether two texts are equal, in a time that does not tell where they differ.
---@param a string
---@param b string
---@return boolean
function crypto.equal(a, b) end

---@class greenlua.Coder
local Coder = {}

---@param text string any bytes, up to 16 MiB
---@return string
function Coder.encode(text) end

---@param text string
---@return string? bytes nil when the text is not valid
---@return string? why
function Coder.decode(text) end

---RFC 4648, section 4, with padding.
---@type greenlua.Coder
crypto.base64 = nil

---RFC 4648, section 5, without padding.
---@type greenlua.Coder
crypto.base64url = nil

---Lower case; decodes either.
---@type greenlua.Coder
crypto.hex = nil

---@class greenlua.Password
crypto.password = {}

---A hash to keep in a database. Waits: it takes some tenths of a second on a thread.
---@param text string up to 4096 bytes, without NUL
---@return string
function crypto.password.hash(text) end

---Whether the hash is that of the password. Waits as `hash` does.
---@param text string
---@param hash string
---@return boolean? right nil when `hash` is no hash of `crypto.password`
---@return string? why
function crypto.password.verify(text, hash) end

return crypto

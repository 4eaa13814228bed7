-- greenlua.crypto: random bytes, UUIDs, digests, encodings of bytes, password hashes. Uses operations, errors, crypto.py.
-- Rules: what a program gets wrong (types, sizes, unknown names) is raised at its place; text that cannot be decoded is
-- nil and a reason. All is computed at once, but for password.*, which waits.

local prelude, host = ...

local concat, find, format, gmatch = table.concat, string.find, string.format, string.gmatch
local setmetatable, tostring, type = setmetatable, tostring, type
local perform = prelude.operations.perform
local nearest, raise = prelude.errors.nearest, prelude.errors.raise

local TEXT_MAX = 16 * 1024 * 1024 -- bytes; a digest of so much holds up the VM for some tens of milliseconds
local RANDOM_MAX = 65536
local PASSWORD_MAX = 4096

local function words(text)
  local list, known = {}, {}
  for word in gmatch(text, "%S+") do
    list[#list + 1], known[word] = word, true
  end
  return list, known
end

local algorithms, is_algorithm = words(host.algorithms())
local encodings, is_encoding = words(host.encodings())

local function check(caller, what, value, limit)
  if type(value) ~= "string" then raise("%s: %s must be a string, not a %s", caller, what, type(value)) end
  if #value > limit then raise("%s: %s has %d bytes; at most %d are taken", caller, what, #value, limit) end
end

local function check_name(caller, what, name, names, known)
  if type(name) == "string" and known[name] then return end
  local near = nearest(name, names)
  raise(
    "%s: there is no %s %s; %sthere are %s",
    caller, what, type(name) == "string" and format("%q", name) or tostring(name),
    near and "did you mean " .. near .. "? " or "", concat(names, ", ")
  )
end

-- What Python gave, or what it could not do.
local function given(caller, value, why)
  if value == nil then raise("%s: %s", caller, tostring(why)) end
  return value
end

-- The module is frozen by the sandbox; this does it for the tables in it.
local function frozen(functions, name)
  return setmetatable({}, {
    __index = functions,
    __newindex = function() raise("%s cannot be changed", name) end,
    __metatable = name,
  })
end

local crypto = {}

function crypto.uuid(version)
  if version == nil then version = 4 end
  if version ~= 4 and version ~= 7 then raise("crypto.uuid: there are versions 4 (random) and 7 (by time)") end
  return given("crypto.uuid", host.uuid(version))
end

function crypto.random_bytes(count)
  if type(count) ~= "number" or count % 1 ~= 0 or count < 1 or count > RANDOM_MAX then
    raise("crypto.random_bytes takes a whole number from 1 to %d", RANDOM_MAX)
  end
  return given("crypto.random_bytes", host.random_bytes(count))
end

function crypto.hash(algorithm, text, encoding)
  if encoding == nil then encoding = "hex" end
  check_name("crypto.hash", "algorithm", algorithm, algorithms, is_algorithm)
  check_name("crypto.hash", "encoding", encoding, encodings, is_encoding)
  check("crypto.hash", "the text", text, TEXT_MAX)
  return given("crypto.hash", host.hash(algorithm, text, encoding))
end

function crypto.hmac(algorithm, key, text, encoding)
  if encoding == nil then encoding = "hex" end
  check_name("crypto.hmac", "algorithm", algorithm, algorithms, is_algorithm)
  check_name("crypto.hmac", "encoding", encoding, encodings, is_encoding)
  check("crypto.hmac", "the key", key, TEXT_MAX)
  check("crypto.hmac", "the text", text, TEXT_MAX)
  return given("crypto.hmac", host.hmac(algorithm, key, text, encoding))
end

function crypto.equal(a, b)
  check("crypto.equal", "the first text", a, TEXT_MAX)
  check("crypto.equal", "the second text", b, TEXT_MAX)
  return given("crypto.equal", host.equal(a, b))
end

local function coder(name, encode, decode, reason)
  return frozen({
    encode = function(text)
      check(name .. ".encode", "the text", text, TEXT_MAX)
      return given(name .. ".encode", encode(text))
    end,
    decode = function(text)
      check(name .. ".decode", "the text", text, TEXT_MAX)
      local bytes = decode(text)
      if bytes == nil then return nil, reason end
      return bytes
    end,
  }, name)
end

crypto.base64 = coder("crypto.base64", host.base64_encode, host.base64_decode, "not valid base64")
crypto.base64url =
  coder("crypto.base64url", host.base64url_encode, host.base64url_decode, "not valid base64url without padding")
crypto.hex = coder("crypto.hex", host.hex_encode, host.hex_decode, "not valid hexadecimal")

local password = {}

function password.hash(text)
  check("crypto.password.hash", "the password", text, PASSWORD_MAX)
  -- scrypt fills short passwords with NUL, so it does not tell "x" from "x\0".
  if find(text, "\0", 1, true) then raise("crypto.password.hash: the password must not contain NUL") end
  return perform("crypto.password.hash", text)
end

function password.verify(text, hash)
  check("crypto.password.verify", "the password", text, TEXT_MAX)
  check("crypto.password.verify", "the hash", hash, TEXT_MAX)
  local result = perform("crypto.password.verify", text, hash)
  if type(result) == "string" then return nil, result end
  return result
end

crypto.password = frozen(password, "crypto.password")

return crypto

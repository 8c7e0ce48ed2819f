-- After jobs.lua, in scripts that book: exact sums of whole numbers too large for Lua's doubles.
-- A number is {high, low}, high * 10^15 + low with 0 <= low < 10^15; a vector has the fields of Amount in their order.
local BASE, DIGITS, NUM_FIELDS = 1e15, 15, 6

local function parsed(text)
  if #text <= DIGITS then
    return {0, tonumber(text)}
  end
  return {tonumber(string.sub(text, 1, -DIGITS - 1)), tonumber(string.sub(text, -DIGITS))}
end

local function shown(number)
  if number[1] == 0 then
    return whole(number[2])
  end
  return string.format('%.0f%015.0f', number[1], number[2])
end

local function sum(left, right)
  local high, low = left[1] + right[1], left[2] + right[2]
  if low >= BASE then
    return {high + 1, low - BASE}
  end
  return {high, low}
end

-- Below 0 if the first part is.
local function difference(left, right)
  local high, low = left[1] - right[1], left[2] - right[2]
  if low < 0 then
    return {high - 1, low + BASE}
  end
  return {high, low}
end

local function is_less(left, right)
  return left[1] < right[1] or (left[1] == right[1] and left[2] < right[2])
end

local function at_least_zero(number)
  if number[1] < 0 then
    return {0, 0}
  end
  return number
end

-- A vector from text such as '10 0 0 0 0 0'; of zeros from nothing.
local function vector(text)
  local numbers = {}
  for digits in string.gmatch(text or '', '%d+') do
    numbers[#numbers + 1] = parsed(digits)
  end
  for place = #numbers + 1, NUM_FIELDS do
    numbers[place] = {0, 0}
  end
  return numbers
end

local function text_of(numbers)
  local texts = {}
  for place = 1, NUM_FIELDS do
    texts[place] = shown(numbers[place])
  end
  return table.concat(texts, ' ')
end

local function each(combine, left, right)
  local numbers = {}
  for place = 1, NUM_FIELDS do
    numbers[place] = combine(left[place], right[place])
  end
  return numbers
end

local function account_key(book)
  return ROOT .. 'account:' .. book
end

-- Takes back what is set aside for a job; returns the books it was set aside in.
local function give_back(job_id)
  local books = {}
  local entries = redis.call('HGETALL', ROOT .. 'aside:' .. job_id)
  for place = 1, #entries, 2 do
    local key = account_key(entries[place])
    local aside = each(difference, vector(redis.call('HGET', key, 'aside')), vector(entries[place + 1]))
    for field = 1, NUM_FIELDS do
      aside[field] = at_least_zero(aside[field])
    end
    redis.call('HSET', key, 'aside', text_of(aside))
    books[#books + 1] = entries[place]
  end
  redis.call('DEL', ROOT .. 'aside:' .. job_id)
  return books
end

local function settle(job_id, actual)
  for _, book in ipairs(give_back(job_id)) do
    local spent = vector(redis.call('HGET', account_key(book), 'spent'))
    redis.call('HSET', account_key(book), 'spent', text_of(each(sum, spent, actual)))
  end
end

-- What is left of a cap: it minus what is spent and set aside, except for this job.
local function left_in(book, cap, field, had)
  local spent = vector(redis.call('HGET', account_key(book), 'spent'))[field]
  local aside = vector(redis.call('HGET', account_key(book), 'aside'))[field]
  return sum(difference(difference(cap, spent), aside), had)
end

-- Sets an amount aside for a job in place of what it had. Arguments from ARGV[first] on: the amount, whether part of
-- it is welcome, then book and caps by turns. Returns nil and the amount as text, or what did not fit: number of the book,
-- number of the field, what is left, what was wanted.
local function set_aside(job_id, first)
  local amount, partly = vector(ARGV[first]), ARGV[first + 1] == '1'
  for place = first + 2, #ARGV, 2 do
    local book, caps = ARGV[place], vector(ARGV[place + 1])
    local number = (place - first) / 2 -- of the book, from 1
    local had = vector(redis.call('HGET', ROOT .. 'aside:' .. job_id, book))
    for field = 1, NUM_FIELDS do
      local wanted, cap = amount[field], caps[field]
      if is_less({0, 0}, wanted) and is_less({0, 0}, cap) then
        local left = left_in(book, cap, field, had[field])
        if is_less(left, wanted) then
          left = at_least_zero(left)
          if not partly or not is_less({0, 0}, left) then
            return {'exhausted', number, field, shown(left), shown(wanted)}
          end
          amount[field] = left
        end
      end
    end
  end
  give_back(job_id)
  for place = first + 2, #ARGV, 2 do
    local book = ARGV[place]
    local aside = vector(redis.call('HGET', account_key(book), 'aside'))
    redis.call('HSET', account_key(book), 'aside', text_of(each(sum, aside, amount)))
    redis.call('HSET', ROOT .. 'aside:' .. job_id, book, text_of(amount))
  end
  return nil, text_of(amount)
end

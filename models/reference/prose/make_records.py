#!/usr/bin/env python3
"""Writes records.txt, a table of made-up shipments. The same seed gives the same bytes.

    python3 models/reference/prose/make_records.py > models/reference/prose/records.txt
"""
import random

GOODS = ("barley", "bricks", "cheese", "coal", "copper wire", "cotton", "flour", "glass", "hides",
         "honey", "lamp oil", "linen", "nails", "paper", "rope", "salt", "soap", "tea", "tin", "wool")
SHIPS = ("Aurora", "Beatrice", "Comet", "Dove", "Endeavour", "Falcon", "Gannet", "Heron", "Iris",
         "Juno", "Kestrel", "Linnet", "Mermaid", "Nelly", "Osprey", "Petrel")
STATES = ("paid", "due", "paid", "returned", "paid", "damaged", "due", "paid")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def main():
    rng = random.Random(20261201)
    print("no.   date         ship       goods        casks  weight    price  state")
    for number in range(4101, 4501):
        date = f"{rng.randint(1, 28):02d} {rng.choice(MONTHS)} {rng.randint(1871, 1889)}"
        print(f"{number}  {date}  {rng.choice(SHIPS):9}  {rng.choice(GOODS):11}  {rng.randint(2, 240):5}"
              f"  {rng.randint(40, 9999) / 10:6.1f}  {rng.randint(100, 99999) / 100:7.2f}  {rng.choice(STATES)}")


if __name__ == "__main__":
    main()
